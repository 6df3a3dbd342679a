"""Base class of the Lightning data modules: loaders, sharding over ranks, and the epoch position in checkpoints."""

import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
from lightning import LightningDataModule
from torch.utils.data import BatchSampler, DataLoader

from datamodules.bad_images import BadDraws, OnBadImage, RedrawingLoader, Redrawn, collate_redrawn
from datamodules.batches import Direction, DomainLetter
from datamodules.files.layouts import STAGES, Stage, existing_root, pick
from datamodules.samples import EvaluationImages, TrainingSet, collate_evaluation
from datamodules.sampling import EpochSampler, ShapeBatches
from datamodules.scenes import RENDERER_VERSION, SceneImages
from datamodules.transforms import TrainTransform
from datamodules.workers import leave_signals_to_parent
from limits import check_settings

EvaluationStage = Literal["validate", "test"]
T = TypeVar("T")


class TranslationData(LightningDataModule, ABC):
    """Images of two domains, in training, validation and test splits.

    Data of your own, in a module outside of this project (``data.class_path: my_module.MyData``), is one of:

    - a subclass of `UnpairedImages` or `PairedImages` that overrides the class method `list_files`, and perhaps
      ``domain_names`` and ``default_prompts``, where only the folder's layout differs;
    - a subclass of this class, where images are no files or samples are others.  Its constructor hands ``**settings``
      to this one, then sets `prompts` and whatever the three abstract methods need: `training_set`, `evaluation_set`
      and `reference_set`.  This constructor calls none of them.

    Everything is known after construction, which lists files and reads headers but decodes no JPEG or PNG.

    The trainer must not add samplers (``use_distributed_sampler=False``): images are divided among the ranks here.

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
        seed: seed of splits, order, partners, crops, flips and strengths.
        train_scenes: rendered training images per domain, without ``root``.
        val_scenes: rendered validation images per domain, without ``root``.
        test_scenes: rendered test images per domain, without ``root``.
        train_limit: train on this many images (of each domain), drawn by the seed; validation and test stay.
        scene_cache: folder in which rendered scenes are cached, for runs that share them.
        on_bad_image: what training does where an image can no longer be read: "stop", or "skip" it and draw another
            sample in its place, for at most 1 % of the draws.  Validation and test always stop.

    Attributes:
        root: where the images are, as described to the user; None where they are rendered.
        directions: directions that can be evaluated: "a2b", and "b2a" where the task has it.
        domain_names: names of A and B.
        scenes: task of the twin world that is rendered without a folder; None where a folder is needed.
        resolution: how images above `eval_size` are translated best: "lift" where colours change, "tiles" where
            something is drawn (see `inference.high_resolution`).
        prompts: prompt of each direction, which describes its target domain.
        edits: prompts of which each image's caption is one, where they are few enough to be listed; else empty.
        shares_images: whether an image may be in both domains, as the result of one edit is the input of another.
        bad_draws: what was skipped.
        has_truth: whether evaluation batches have ground truth.
        test_is_validation: whether the validation images stand in for missing test images.
        is_rendered: whether the images are rendered.

    Raises:
        ValueError: a setting or the content of the folder cannot be used; the message names it.
        FileNotFoundError: a folder is missing or empty.
    """

    directions: tuple[Direction, ...] = ("a2b", "b2a")
    domain_names: tuple[str, str] = ("A", "B")
    scenes: str | None = None
    resolution: Literal["lift", "tiles", "direct"] = "lift"
    edits: tuple[str, ...] = ()
    prompts: dict[str, str]
    shares_images = False
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
        on_bad_image: OnBadImage = "stop",
    ) -> None:
        super().__init__()
        check_settings(resize=resize, crop=crop, eval_size=eval_size, seed=seed, train_limit=train_limit)
        check_settings(batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers)
        if root is None:
            check_settings(train_scenes=train_scenes, val_scenes=val_scenes, test_scenes=test_scenes)
        if on_bad_image not in get_args(OnBadImage):
            raise ValueError(f"data: on_bad_image must be stop or skip, got {on_bad_image!r}.")
        self.root, self.folder = root, None if root is None else existing_root(root)
        self.is_rendered = root is None
        self.transform = TrainTransform(resize, crop, flip, random_crop)
        self.eval_size, self.batch_size, self.eval_batch_size = eval_size, batch_size, eval_batch_size
        self.num_workers, self.seed = num_workers, seed
        self.train_limit, self.scene_cache = train_limit, scene_cache
        self.scene_counts: dict[Stage, int] = dict(zip(STAGES, (train_scenes, val_scenes, test_scenes), strict=True))
        self.on_bad_image, self.bad_draws = on_bad_image, BadDraws()
        self._start = (0, 0)

    @abstractmethod
    def training_set(self) -> TrainingSet[Any, Any]:
        """The training samples, by the key ``(epoch, index)``."""

    @abstractmethod
    def evaluation_set(self, direction: Direction, stage: EvaluationStage) -> EvaluationImages:
        """The images that are translated in a direction."""

    @abstractmethod
    def reference_set(self, direction: Direction, stage: EvaluationStage) -> EvaluationImages:
        """Real images of the direction's target domain."""

    @property
    def description(self) -> str:
        """One-line description of the data."""
        if self.root is not None:
            return f"{self.root}: {self.describe_splits()}"
        counts: dict[Stage, int] = {**self.scene_counts, "train": self.limited(self.scene_counts["train"])}
        numbers = ", ".join(f"{stage} {count}" for stage, count in counts.items())
        domains = " and ".join(self.domain_names)
        return f"twin world: rendered scenes of {domains}, not photographs ({numbers} per domain)"

    def describe_splits(self) -> str:
        """Numbers of images by stage, in a few words."""
        counts = [len(self.evaluation_set(self.directions[0], stage)) for stage in ("validate", "test")]
        return f"train {len(self.training_set())}, validate {counts[0]}, test {counts[1]}"

    @property
    def preprocessing(self) -> dict[str, int | str]:
        """Describe how images become inputs; written to every adapter."""
        return {"resize": self.transform.resize, "crop": self.transform.crop, "eval_size": self.eval_size}

    def limited(self, count: int) -> int:
        """Number of training images used, of `count`.

        Raises:
            ValueError: there are fewer than the limit: a run named after it would be another.
        """
        if self.train_limit is not None and self.train_limit > count:
            raise ValueError(f"data: train_limit is {self.train_limit}, but there are {count} training images.")
        return count if self.train_limit is None else self.train_limit

    def in_use(self, stage: Stage, items: Sequence[T]) -> Sequence[T]:
        """The items of a stage that are used, in order: all, or as many training items as the limit says.

        Lists of equal length keep the same places, so pairs stay pairs.
        """
        count = self.limited(len(items)) if stage == "train" else len(items)
        if count == len(items):
            return items
        return pick(items, sorted(torch.randperm(len(items), generator=self._generator())[:count].tolist()))

    def suspicions(self) -> list[str]:
        """Sentences on training images that cannot be meant, from a sample of them; none where all is well."""
        return []

    def short_side(self, stage: Stage) -> int:
        """Short side at which images of a stage are used, before training crops them; pixels."""
        return self.transform.resize if stage == "train" else self.eval_size

    def rendered(self, domain: DomainLetter, stage: Stage, first: int) -> SceneImages:
        """Scenes of a domain for a stage: at ``resize`` pixels for training, at ``eval_size`` for the rest.

        Args:
            domain: "a" or "b".
            stage: decides size and number.
            first: index of the first scene.

        Raises:
            ValueError: this class has no scenes.
        """
        if self.scenes is None:
            raise ValueError(f"{type(self).__name__} renders no scenes: it needs a folder of images (root).")
        count = self.scene_counts[stage]
        if stage == "train":
            count = self.limited(count)
        return SceneImages(self.scenes, domain, self.seed, first, count, self.short_side(stage), self.scene_cache)

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
        # Lightning stops the shuffling of its own samplers only.
        repeat = self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]
        sampler = EpochSampler(len(samples), self.batch_size, self.seed, rank, world_size, start, repeat)
        settings: dict[str, Any] = {
            "batch_sampler": BatchSampler(sampler, self.batch_size, drop_last=True),  # type: ignore[arg-type]  # our keys
            "num_workers": self.num_workers,
            "generator": self._generator(),
            "worker_init_fn": leave_signals_to_parent,
            "persistent_workers": self.num_workers > 0,
        }
        if self.on_bad_image == "stop":
            return DataLoader(samples, collate_fn=samples.collate, **settings)
        redrawn: Redrawn[Any] = Redrawn(samples, len(samples), self.seed)
        loader = RedrawingLoader(redrawn, collate_fn=partial(collate_redrawn, samples.collate), **settings)
        per_batch, per_epoch = self.batch_size * world_size, self.batch_size * world_size * sampler.batches
        self.bad_draws.start(start[0] * per_epoch + start[1] * per_batch, per_batch, per_epoch)
        loader.report = self.bad_draws.add
        return loader

    def _evaluation_loader(self, images: EvaluationImages, direction: Direction) -> DataLoader[Any]:
        return DataLoader(
            images,
            batch_sampler=ShapeBatches(images.shapes(), self.eval_batch_size, *self._rank()),
            num_workers=self.num_workers,
            collate_fn=partial(collate_evaluation, direction),
            generator=self._generator(),
            worker_init_fn=leave_signals_to_parent,
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """One loader of `EvaluationBatch` per direction."""
        return [self._evaluation_loader(self.evaluation_set(d, "validate"), d) for d in self.directions]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """One loader of `EvaluationBatch` per direction."""
        return [self._evaluation_loader(self.evaluation_set(d, "test"), d) for d in self.directions]

    def reference_dataloader(self, direction: Direction, stage: EvaluationStage) -> DataLoader[Any]:
        """Every real image of a direction's target domain, whatever the trainer's limits; this rank's share.

        Args:
            direction: "a2b" gives images of B.
            stage: "validate" or "test".
        """
        return self._evaluation_loader(self.reference_set(direction, stage), direction)

    def protocol(self, direction: Direction, stage: EvaluationStage) -> dict[str, str | int | None]:
        """The data's part of a direction's evaluation protocol; scores of different protocols cannot be compared.

        Two data modules of equal images have equal digests of names and sizes, wherever the folders lie.

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
            "reference_folder": None if (folder := reference.images.folder) is None else str(folder),
            "seed": self.seed,
        }

    def reference_stamp(self, direction: Direction, stage: EvaluationStage) -> str:
        """A text that changes when the content of any real image of the target domain does."""
        return self.reference_set(direction, stage).images.stamp()

    def skipped_images(self) -> dict[str, int]:
        """What was wrong with images that training skipped, and in how many draws; every rank must call it."""
        if self.on_bad_image == "skip":
            self.bad_draws.gather()
        return self.bad_draws.counts()

    def state_dict(self) -> dict[str, Any]:
        """The next training position: epoch, batches of it already trained on, and images per batch on all ranks.

        With ``bad_draws`` where some were skipped.
        """
        size = self.batch_size * self._rank()[1]
        if self.trainer is None:
            return {"epoch": self._start[0], "batches": self._start[1], "images_per_batch": size}
        if self.on_bad_image == "skip":
            self.bad_draws.gather()
        epochs = dataclasses.asdict(self.trainer.fit_loop.epoch_progress.current)
        batches = dataclasses.asdict(self.trainer.fit_loop.epoch_loop.batch_progress.current)
        # `processed`, not `completed`: a checkpoint at a batch's end is written before that batch counts as completed.
        epoch, done = epochs["processed"], batches["processed"]
        if epochs["started"] == epochs["processed"]:  # between epochs; the counters of batches are the past epoch's
            done = 0
        elif done >= self.trainer.num_training_batches:
            epoch, done = epoch + 1, 0
        bad = {"bad_draws": self.bad_draws.found} if self.bad_draws.found else {}
        return {"epoch": epoch, "batches": done, "images_per_batch": size, **bad}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Start the next `train_dataloader` at a saved position.

        Raises:
            ValueError: batches are of another size now, so that the rest of the epoch would skip or repeat images.
        """
        size, before = self.batch_size * self._rank()[1], state_dict["images_per_batch"]
        if before != size:
            raise ValueError(
                f"The run took {before} images per batch, over all devices; now they are {size}. Resume with the same "
                "batch_size and number of devices, or start a new run from its adapter."
            )
        self._start = (state_dict["epoch"], state_dict["batches"])
        self.bad_draws.found = dict(state_dict.get("bad_draws", {}))
        # Lightning looks for a position in the loader; ours is here.
        warnings.filterwarnings("ignore", message="You're resuming from a checkpoint that ended before the epoch ended")
