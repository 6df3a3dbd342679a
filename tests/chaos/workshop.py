"""What the cases of all campaigns start from: a base, a data folder, a finished run, and their command lines."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..commands.conftest import QUICK, chosen

IMAGES, INTERVAL = 6, 2  # a whole training in images, and images between two validations
TRAINING = [
    *QUICK,
    "--data.init_args.eval_batch_size=4",
    "--checkpoints.minutes=0.001",  # after nearly every batch
    "--trainer.limit_val_batches=1",
    "--trainer.limit_test_batches=1",
    f"--trainer.val_check_interval={INTERVAL}",
    *chosen("min"),
]


@dataclass(frozen=True)
class Workshop:
    """Paths of a base, of a data folder and of a finished run, which cases copy or read and never change."""

    base: Path
    data: Path
    run: Path

    def train(self, folder: str | Path, images: int = 2, *more: str) -> list[str]:
        """Arguments of `make train` for a run of seconds."""
        own = ["--exp=clear2foggy", f"--base={self.base}", f"--data={self.data}", f"--run={folder}"]
        return [*own, *TRAINING, f"--model.init_args.max_images={images}", *more]

    def copy_run(self, folder: Path) -> Path:
        """A copy of the finished run to spoil, in `folder`/clear2foggy/base/version_0."""
        run = folder / "clear2foggy" / "base" / "version_0"
        shutil.copytree(self.run, run)
        return run

    def copy_data(self, folder: Path, names: Sequence[str] = ("train_A", "train_B", "test_A", "test_B")) -> Path:
        """A copy of the data to spoil: three images a side."""
        for name in names:
            (folder / name).mkdir(parents=True)
            for image in sorted((self.data / name).iterdir())[:3]:
                shutil.copy(image, folder / name)
        return folder
