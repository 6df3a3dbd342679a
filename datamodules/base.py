"""Lightning's data side: loaders, sharding over ranks, and the position in the epoch that a checkpoint keeps."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import LightningDataModule
from torch.utils.data import BatchSampler, DataLoader, Dataset

from datamodules.files.layouts import STAGES, existing_root
from datamodules.samples import EvaluationCollate, EvaluationImages, FileImages
from datamodules.sampling import EpochSampler, ShapeBatches
from datamodules.scenes import RENDERER_VERSION
from datamodules.transforms import TrainTransform
from images.headers import check_headers
from storage import digest

NO_PICTURES = "Where DATA is not given the data is rendered, but {} needs a folder of pictures: DATA=folder."


class TranslationData(LightningDataModule):
    """Two domains of images, in training, validation and test splits.

    Subclasses fill in `prepare_folder` or `prepare_scenes`, `training_set`, `evaluation_set` and `reference_set`.  All
    attributes below are known after construction, which lists files and reads headers but decodes no JPEG or PNG.

    The trainer must not add samplers (``use_distributed_sampler=False``): ranks share out the images here.

    Args:
        root: folder of the data; None renders scenes of the twin world, where the class has some.
        resize: short side after resizing for training, pixels.  Small images are resized up.
        crop: side of the training crop, pixels, at most ``resize``.
        random_crop: crop anywhere; False takes the centre.
        flip: mirror half of the training images left and right.
        eval_size: short side of validation and test images, pixels; they are not cropped.
        batch_size: training images (of each domain) per step and rank.
        eval_batch_size: evaluated images per batch at most; a batch has images of one shape.
        num_workers: processes that read images, per loader and rank.
        seed: of splits, order, partners, crops, flips and strengths.
        train_scenes: rendered training images per domain, without ``root``.
        val_scenes: rendered validation images per domain, without ``root``.
        test_scenes: rendered test images per domain, without ``root``.
        train_limit: train on this many images (of each domain), drawn by the seed; validation and test stay.
        scene_cache: folder that keeps rendered scenes, for runs that share them.

    Attributes:
        directions: what can be evaluated: "a2b", and "b2a" where the task has it.
        domain_names: of A and B.
        prompts: the text that leads each direction, naming its target.
        description: in one line, which data this is.
        preprocessing: how pictures become inputs; plain values, kept with every adapter.
        is_rendered: the data is the twin world.
        has_truth: evaluation batches have true counterparts.
        test_is_validation: there are no test images, so the validation images stand in.

    Raises:
        ValueError: a setting or the content of the folder cannot be used; says what and where.
        FileNotFoundError: a folder is missing or empty.
    """

    directions: tuple[str, ...] = ("a2b", "b2a")
    domain_names: tuple[str, str] = ("A", "B")
    prompts: dict[str, str]
    has_truth = False
    test_is_validation = False

    def __init__(
        self,
        root: str | None = None,
        resize: int = 286,
        crop: int = 256,
        random_crop: bool = True,
        flip: bool = True,
        eval_size: int = 256,
        batch_size: int = 1,
        eval_batch_size: int = 4,
        num_workers: int = 2,
        seed: int = 0,
        train_scenes: int = 400,
        val_scenes: int = 32,
        test_scenes: int = 64,
        train_limit: int | None = None,
        scene_cache: str | None = None,
    ) -> None:
        super().__init__()
        counts = {"eval_size": eval_size, "batch_size": batch_size, "eval_batch_size": eval_batch_size}
        if root is None:
            counts |= {"train_scenes": train_scenes, "val_scenes": val_scenes, "test_scenes": test_scenes}
        for name, value in counts.items():
            if value < 1:
                raise ValueError(f"data: {name} must be at least 1, got {value}.")
        if seed < 0 or num_workers < 0:
            raise ValueError(f"data: seed and num_workers must not be negative, got {seed} and {num_workers}.")
        if train_limit is not None and train_limit < 1:
            raise ValueError(f"data: train_limit must be at least 1 image, got {train_limit}.")
        self.train_limit, self.scene_cache = train_limit, scene_cache
        self.transform = TrainTransform(resize, crop, flip, random_crop)
        self.eval_size = eval_size
        self.batch_size, self.eval_batch_size = batch_size, eval_batch_size
        self.num_workers, self.seed = num_workers, seed
        self.preprocessing: dict[str, Any] = {"resize": resize, "crop": crop, "eval_size": eval_size}
        self.is_rendered = root is None
        self._start = (0, 0)
        if root is None:
            self.scene_counts = dict(zip(STAGES, (train_scenes, val_scenes, test_scenes), strict=True))
            self.prepare_scenes(resize)
            counted = {**self.scene_counts, "train": self.limited(train_scenes)}
            numbers = ", ".join(f"{stage} {count}" for stage, count in counted.items())
            drawn = " and ".join(self.domain_names)
            self.description = f"twin world: rendered scenes of {drawn}, not photographs ({numbers} per domain)"
        else:
            folder = existing_root(root)
            self.prepare_folder(folder)
            self.description = f"{root}: {self.describe_splits()}"

    @classmethod
    def list_files(cls, root: Path, seed: int) -> Any:
        """Find the files of each split in a folder, without opening one."""
        raise NotImplementedError

    def prepare_folder(self, root: Path) -> None:
        """Find the files of a folder and check their headers; set `prompts`."""
        raise NotImplementedError

    def prepare_scenes(self, size: int) -> None:
        """Set up rendered images, of ``size`` pixels for training and of `eval_size` for the rest; set `prompts`.

        Raises:
            ValueError: this class has no scenes.
        """
        raise ValueError(NO_PICTURES.format(type(self).__name__))

    def describe_splits(self) -> str:
        """Numbers of images by split, in a few words."""
        raise NotImplementedError

    def training_set(self) -> Dataset[Any]:
        """The training samples, asked with ``(epoch, index)``."""
        raise NotImplementedError

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> Any:
        """Training samples => batch; of no object, which spawned workers would have to be sent with its trainer."""
        raise NotImplementedError

    def evaluation_set(self, direction: str, stage: str) -> EvaluationImages:
        """What is translated in a direction; ``stage`` is "validate" or "test"."""
        raise NotImplementedError

    def reference_set(self, direction: str, stage: str) -> EvaluationImages:
        """Real images of the direction's target domain; ``stage`` is "validate" or "test"."""
        raise NotImplementedError

    def checked(self, files: Sequence[Path]) -> dict[Path, tuple[int, int]]:
        """Check the headers of files; returns height and width of each.

        Raises:
            ValueError: some cannot be used.
        """
        return check_headers(files)

    def limited(self, count: int) -> int:
        """Training images in use, of so many.

        Raises:
            ValueError: there are fewer than the limit: a run named after it would be another.
        """
        if self.train_limit is not None and self.train_limit > count:
            raise ValueError(f"data: train_limit is {self.train_limit}, but there are {count} training images.")
        return count if self.train_limit is None else self.train_limit

    def chosen(self, stage: str, count: int) -> list[int]:
        """Places of the images in use among the ``count`` of a stage, in order: all but of a limited training split."""
        kept = self.limited(count) if stage == "train" else count
        return sorted(torch.randperm(count, generator=self._generator())[:kept].tolist())

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)

    def _generator(self) -> torch.Generator:
        # A loader draws its workers' seeds when it starts: from its own generator, not from the training's.
        return torch.Generator().manual_seed(self.seed)

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of this rank, from the restored position if there is one."""
        samples = self.training_set()
        rank, world_size = self._rank()
        start = self._start
        if self.trainer is not None and start == (0, 0):
            start = (self.trainer.current_epoch, 0)
        self._start = (0, 0)
        length = len(samples)  # type: ignore[arg-type]
        # Lightning stops the shuffling of its own samplers only.
        repeat = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        sampler = EpochSampler(length, self.batch_size, self.seed, rank, world_size, start, repeat)
        return DataLoader(
            samples,
            batch_sampler=BatchSampler(sampler, self.batch_size, drop_last=True),  # type: ignore[arg-type]
            num_workers=self.num_workers,
            collate_fn=self.collate,
            generator=self._generator(),
            persistent_workers=self.num_workers > 0,
        )

    def _evaluation_loader(self, images: EvaluationImages, direction: str) -> DataLoader[Any]:
        return DataLoader(
            images,
            batch_sampler=ShapeBatches(images.shapes(), self.eval_batch_size, *self._rank()),
            num_workers=self.num_workers,
            collate_fn=EvaluationCollate(direction),
            generator=self._generator(),
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One loader of `EvaluationBatch` per direction."""
        return [self._evaluation_loader(self.evaluation_set(d, "validate"), d) for d in self.directions]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """One loader of `EvaluationBatch` per direction."""
        return [self._evaluation_loader(self.evaluation_set(d, "test"), d) for d in self.directions]

    def reference_dataloader(self, direction: str, stage: str) -> DataLoader[Any]:
        """Every real image of a direction's target domain, whatever the trainer's limits; this rank's share.

        Args:
            direction: "a2b" gives images of B.
            stage: "validate" or "test".
        """
        return self._evaluation_loader(self.reference_set(direction, stage), direction)

    def protocol(self, direction: str, stage: str) -> dict[str, Any]:
        """What scores of a direction depend on, as far as the data decides: equal, or the scores cannot be compared.

        Folder and seed are told beside it: the digests of names and sizes decide.

        Args:
            direction: "a2b" or "b2a".
            stage: "validate" or "test".
        """
        evaluated, reference = self.evaluation_set(direction, stage), self.reference_set(direction, stage)
        return {
            "split": "validate" if self.test_is_validation else stage,
            "size": f"short side {self.eval_size}, antialiased, not cropped",
            "translated": f"{len(evaluated)} images, names and sizes {evaluated.fingerprint()}",
            "reference": f"{len(reference)} images, names and sizes {reference.fingerprint()}",
            "rendered_with_seed": self.seed if self.is_rendered else None,
            "renderer": RENDERER_VERSION if self.is_rendered else None,
            "reference_folder": self.reference_folder(direction, stage),
            "seed": self.seed,
        }

    def reference_stamp(self, direction: str, stage: str) -> str:
        """Changes when a real picture of the target domain does: its file's length or time, or the renderer."""
        images = self.reference_set(direction, stage).images
        if not isinstance(images, FileImages):
            return f"renderer {RENDERER_VERSION}"
        known = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in images.files]
        return digest(repr(known))

    def reference_folder(self, direction: str, stage: str) -> str | None:
        """Where the real pictures of a direction's target domain lie; None where they are rendered."""
        images = self.reference_set(direction, stage).images
        return str(images.folder) if isinstance(images, FileImages) else None

    def state_dict(self) -> dict[str, Any]:
        """The next training position: epoch, and batches of it already trained on, and how large these were."""
        size = self.batch_size * self._rank()[1]
        if self.trainer is None:
            return {"epoch": self._start[0], "batches": self._start[1], "images_per_batch": size}
        epochs: Any = self.trainer.fit_loop.epoch_progress.current
        batches: Any = self.trainer.fit_loop.epoch_loop.batch_progress.current
        # `processed`, not `completed`: a checkpoint at a batch's end is written before that batch counts as completed.
        epoch, done = epochs.processed, batches.processed
        if epochs.started == epochs.processed:  # between epochs; the counters of batches are the past epoch's
            done = 0
        elif done >= self.trainer.num_training_batches:
            epoch, done = epoch + 1, 0
        return {"epoch": epoch, "batches": done, "images_per_batch": size}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next `train_dataloader` at a saved position.

        Raises:
            ValueError: batches are of another size now, so that the rest of the epoch would skip or repeat images.
        """
        size = self.batch_size * self._rank()[1]
        before = state_dict.get("images_per_batch", size)  # older checkpoints hold none
        if before != size:
            raise ValueError(
                f"The run took {before} images per batch, over all devices; now they are {size}. Resume with the "
                "batch_size and the devices that it had, or start a new run from its adapter (INIT=)."
            )
        self._start = (state_dict["epoch"], state_dict["batches"])
        # Lightning looks for state in the loader; it is here.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
