"""``make adapters``: train the packaged adapters from scratch, a longer quick start of every task on pocket.

Each takes at most 2 MiB: their rank is smaller than the quick starts', the autoencoders' may be reduced once more, and
weights are stored in 16 bits.  The scores on their cards are of what is stored.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from commands import evaluate
from commands.cli.errors import user_errors
from commands.cli.progress import Progress
from packaged_adapters import FOLDER, PREFIX
from prompt_embeddings import DIRECTIONS, PROMPTS
from storage import atomic_folder, did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from ablation.trials import Trial


@dataclass(frozen=True)
class Recipe:
    """How a packaged adapter is trained and stored.

    Attributes:
        images: in training.
        small: train at `RANK` and store the autoencoders' LoRA at `STORED_RANK`; else the experiment's ranks stay.
    """

    images: int
    small: bool = True


RANK = 8
STORED_RANK = 7
RECIPES = {
    "clear2foggy": Recipe(600),
    "day2night": Recipe(1200),
    "horse2zebra": Recipe(600),
    "edge2image": Recipe(1800),
    "sketch2image": Recipe(1800),
    "edit": Recipe(20_000, small=False),  # a LoRA that the prompt gates cannot be reduced
}
"""By experiment."""
LIMIT = 2 * 2**20  # bytes of the weights


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(
        prog="one-step adapters",
        description="Train the packaged adapters: a longer quick start of every task, stored in 16 bits and measured "
        "on its test split. A finished training is not repeated, an interrupted one is resumed.",
        allow_abbrev=False,
    )
    p.add_argument("--exp", metavar="EXP", help="this task alone (default: all)")
    p.add_argument(
        "--work", type=Path, default=Path("runs/adapters"), metavar="FOLDER", help="run folders (%(default)s)"
    )
    p.add_argument("--out", type=Path, default=FOLDER, metavar="FOLDER", help="default: networks/pocket/adapters")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = parser().parse_args(args)
    if options.exp not in (None, *RECIPES):
        raise ValueError(f"Unknown EXP={options.exp}.{did_you_mean(options.exp, RECIPES)} Known: {', '.join(RECIPES)}.")
    for name in RECIPES if options.exp is None else [options.exp]:
        trial = train(name, options.work.absolute())
        pack(name, Path(trial.folder), options.out / name)
        print(f"{name}: written to {options.out / name}", flush=True)
    return 0


def train(name: str, work: Path) -> "Trial":
    """Train an experiment in a child process; returns the finished trial, whose folder is its run folder.

    Raises:
        ValueError: the run folder was trained with other settings.
        TrialFailedError: the training failed.
    """
    from ablation import trials

    recipe = RECIPES[name]
    generator = {"rank_unet": RANK, "alpha_unet": RANK, "rank_vae": RANK, "alpha_vae": 2 * RANK}  # released scales
    words = [f"--exp={name}", "--base=pocket", f"--model.init_args.max_images={recipe.images}"]
    if recipe.small:
        words += [f"--model.init_args.generator.init_args.{key}={value}" for key, value in generator.items()]
    trial = trials.Trial(point=name, labels={"task": name}, seed=0, folder=str(work / name), arguments=words)
    if not trials.missing([trial]):
        return trial
    print(f"{name}: training, log {trial.log}", flush=True)
    shown = 0
    with Progress(recipe.images) as progress:

        def show(now: trials.Progress) -> None:
            nonlocal shown
            earlier = now["images"] - now["new"]
            if shown < earlier:
                progress.skip(earlier)
                shown = earlier
            progress.update(now["images"] - shown)
            shown = now["images"]

        trials.train(trial, show)
    return trial


def pack(name: str, run: Path, out: Path) -> None:
    """Store a run's adapter in 16 bits, measure it on the test split, and write its card.

    Args:
        name: of the experiment.
        run: the run folder.
        out: the folder to write, replaced as a whole.

    Raises:
        ValueError: the weights take more than 2 MiB, or cannot be measured.
    """
    from evaluation.model_card import readme
    from networks.checkpoints.adapter import CARD, WEIGHTS, read_adapter, write_adapter, write_card
    from networks.checkpoints.settings import OneStepSettings

    adapter = read_adapter(run)
    with atomic_folder(out, (WEIGHTS, CARD, PROMPTS, "README.md").__contains__) as folder:
        settings, kept = adapter.card.settings, adapter.tensors
        assert isinstance(settings, OneStepSettings)
        if RECIPES[name].small:
            kept = reduce_rank(kept, STORED_RANK)
            settings = replace(settings, rank_vae=STORED_RANK, alpha_vae=2 * STORED_RANK)
        tensors = {key: tensor.half().contiguous() for key, tensor in kept.items()}
        card = replace(adapter.card, settings=settings, metrics=None, best=None)
        write_adapter(folder, tensors, card, adapter.prompts)
        size = (folder / WEIGHTS).stat().st_size
        if size > LIMIT:
            raise ValueError(f"The adapter in {run} takes {size / 2**20:.2f} MiB, a packaged one may take 2.")
        scores = evaluate.scores_of(folder, name)
        card = read_adapter(folder).card
        card = replace(card, metrics={direction: scores[direction] for direction in DIRECTIONS if direction in scores})
        write_card(folder, card)
        (folder / "README.md").write_text(readme(card, size / 2**20, f"{PREFIX}{name}"), encoding="utf-8")


def reduce_rank(tensors: "Mapping[str, Tensor]", rank: int) -> "dict[str, Tensor]":
    """An adapter's tensors with the autoencoders' LoRA at a lower rank: the nearest such B A of each layer.

    Args:
        tensors: by name; ``lora_A`` is ``(rank, in, ...)``, ``lora_B`` ``(out, rank, ...)``.
        rank: at most that of the tensors.
    """
    import torch
    from torch.nn.functional import pad

    reduced = dict(tensors)
    for name, a in tensors.items():
        if name.startswith("autoencoders.") and ".lora_A." in name:
            other = name.replace(".lora_A.", ".lora_B.")
            b = tensors[other]
            u, values, v = torch.linalg.svd(b.flatten(1) @ a.flatten(1), full_matrices=False)
            root, missing = values[:rank].sqrt(), max(0, rank - len(values))  # few channels, lower rank
            small_a = pad(root[:, None] * v[:rank], (0, 0, 0, missing))
            small_b = pad(u[:, :rank] * root, (0, missing))
            reduced[name] = small_a.unflatten(1, a.shape[1:])
            reduced[other] = small_b.unflatten(1, (rank, *b.shape[2:]))
    return reduced


if __name__ == "__main__":
    raise SystemExit(main())
