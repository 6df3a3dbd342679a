"""Inputs with their targets: two folders of equal names, and what the tasks on photographs share."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from datamodules.base import TranslationData
from datamodules.batches import PairedBatch
from datamodules.files.layouts import STAGES, Pairs, find_pairs, find_photographs, has_domains
from datamodules.samples import EvaluationImages, FileImages, Images, PairedFolder, collate_paired
from datamodules.scenes.cached import KeptScenes
from images.contours import CONTOURS
from images.resizing import resized_shape


def different_shapes(pairs: Pairs, sizes: Mapping[Path, tuple[int, int]], resized: Iterable[int]) -> str | None:
    """What is wrong with pairs whose input and target would differ in shape; None where all will do.

    Args:
        pairs: with inputs.
        sizes: height and width of each file; pairs of others are left out.
        resized: short sides, pixels, at which the pictures are used.
    """
    assert pairs.inputs is not None
    known = [
        (i, t)
        for stage, files in pairs.inputs.files.items()
        for i, t in zip(files, pairs.targets.files[stage], strict=True)
        if i in sizes and t in sizes
    ]
    differ = [
        f"{i} ({sizes[i][1]} x {sizes[i][0]}) and {t} ({sizes[t][1]} x {sizes[t][0]})"
        for side in resized
        for i, t in known
        if resized_shape(*sizes[i], side) != resized_shape(*sizes[t], side)
    ]
    return f"Pairs must have one shape, these differ: {'; '.join(list(dict.fromkeys(differ))[:3])}." if differ else None


class PairedImages(TranslationData):
    """Two folders whose pictures belong together by name.

    .. code-block:: text

        root/train_A  root/train_B        inputs and targets (or trainA, trainB)
        root/val_A    root/val_B          optional, else a tenth of train
        root/test_A   root/test_B         optional, else validation
        root/train_prompts.json ...       optional captions, also .jsonl and .csv

    Args:
        caption: of every pair that has none of its own.
        stochastic: draw a strength from [0, 1] for each training sample.
        **settings: as in `TranslationData`.
    """

    directions = ("a2b",)
    domain_names = ("input", "target")
    has_truth = True
    scenes: str | None = None
    contour: str | None = None
    """How inputs are computed from photographs, a name in `CONTOURS`; None needs pairs."""

    def __init__(self, *, caption: str = "a photograph", stochastic: bool = False, **settings: Any) -> None:
        self.caption, self.stochastic = caption, stochastic
        self.prompts = {"a2b": caption}
        super().__init__(**settings)
        # Pairs of the user's own are used as they are.
        self.preprocessing["preprocess"] = "none" if self.computed is None else self.computed

    @classmethod
    def list_files(cls, root: Path, seed: int) -> Pairs:
        """Files by split: pairs, or photographs where inputs can be computed.

        Raises:
            FileNotFoundError: a folder is missing or empty.
            ValueError: names of inputs and targets differ.
        """
        return find_pairs(root, seed) if cls.contour is None or has_domains(root) else find_photographs(root, seed)

    def prepare_folder(self, root: Path) -> None:
        """List pairs or photographs and check every header."""
        pairs = self.list_files(root, self.seed)
        domains = [pairs.targets, *([pairs.inputs] if pairs.inputs else [])]
        sizes = self.checked([path for domain in domains for files in domain.files.values() for path in files])
        if pairs.inputs and (differ := different_shapes(pairs, sizes, (self.transform.resize, self.eval_size))):
            raise ValueError(differ)
        self.computed = None if pairs.inputs else self.contour
        used = {stage: self.chosen(stage, len(pairs.targets.files[stage])) for stage in STAGES}
        images: list[dict[str, Images]] = [
            {
                stage: FileImages([domain.files[stage][k] for k in used[stage]], domain.folders[stage], sizes)
                for stage in STAGES
            }
            for domain in domains
        ]
        self.targets = images[0]
        self.inputs: dict[str, Images] | None = images[1] if pairs.inputs else None
        self.captions = {stage: [pairs.captions[stage][k] or self.caption for k in used[stage]] for stage in STAGES}
        self.test_is_validation = pairs.targets.test_is_validation

    def prepare_scenes(self, size: int) -> None:
        """Render photographs to compute inputs from.

        Raises:
            ValueError: this class needs pairs.
        """
        if self.scenes is None:
            super().prepare_scenes(size)
        self.computed, self.inputs, self.targets, self.captions = self.contour, None, {}, {}
        first = 0
        for stage, count in self.scene_counts.items():
            side, used = (size, self.limited(count)) if stage == "train" else (self.eval_size, count)
            scenes = KeptScenes(self.scene_cache, "day_night", "a", self.seed, first, used, side)
            self.targets[stage] = scenes
            self.captions[stage] = [scenes.caption(k) for k in range(used)]
            first += count

    def describe_splits(self) -> str:
        """Numbers of pairs by split."""
        what = "pairs" if self.computed is None else f"photographs with {self.computed} lines"
        note = " (test is validation)" if self.test_is_validation else ""
        return f"{what}, {', '.join(f'{stage} {len(images)}' for stage, images in self.targets.items())}{note}"

    def training_set(self) -> Dataset[Any]:
        """Samples of inputs with targets."""
        contour = CONTOURS[self.computed] if self.computed else None
        inputs = self.inputs["train"] if self.inputs else None
        captions = self.captions["train"]
        return PairedFolder(
            self.targets["train"], inputs, contour, captions, self.transform, self.seed, self.stochastic
        )

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> PairedBatch:
        """Training samples => batch."""
        return collate_paired(samples)

    def evaluation_set(self, direction: str, stage: str) -> EvaluationImages:
        """Inputs, with their targets as truth."""
        targets, captions = self.targets[stage], self.captions[stage]
        if self.inputs is None:
            return EvaluationImages(targets, self.eval_size, contour=CONTOURS[str(self.computed)], captions=captions)
        return EvaluationImages(self.inputs[stage], self.eval_size, truths=targets, captions=captions)

    def reference_set(self, direction: str, stage: str) -> EvaluationImages:
        """Targets."""
        return EvaluationImages(self.targets[stage], self.eval_size)
