"""Paired data: inputs with their targets, from two folders of equal names or computed from photographs."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from datamodules.base import EvaluationStage, TranslationData
from datamodules.batches import Direction
from datamodules.files.images import FileImages, Images
from datamodules.files.layouts import STAGES, Domain, Pairs, Stage, find_pairs, find_photographs, has_domains
from datamodules.plausibility import suspicions
from datamodules.samples import EvaluationImages, PairedTraining
from images.headers import check_headers
from images.line_drawings import LINE_DRAWINGS
from images.listing import texts
from images.resizing import resized_shape


def different_shapes(pairs: Pairs, sizes: Mapping[Path, tuple[int, int]], resized: Iterable[int]) -> str | None:
    """A message that names pairs whose input and target would differ in shape; None where all fit.

    Args:
        pairs: with inputs.
        sizes: height and width of each file; pairs of other files are left out.
        resized: short sides, pixels, at which the images are used.
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
    """Two folders whose images belong together by name.

    .. code-block:: text

        root/train_A  root/train_B        inputs and targets (or trainA, trainB)
        root/val_A    root/val_B          optional, else a tenth of train
        root/test_A   root/test_B         optional, else validation
        root/train_prompts.json ...       optional captions, also .jsonl and .csv

    Args:
        caption: caption of every pair that has none of its own.
        stochastic: draw a strength from [0, 1] for each training sample.
        **settings: as in `TranslationData`.

    Attributes:
        targets: target images by stage.
        inputs: input images by stage; None where inputs are line drawings of the targets.
        captions: one caption per target, by stage.
        line_drawing: a name of `LINE_DRAWINGS` by which inputs are computed from photographs; None needs pairs.
    """

    directions = ("a2b",)
    domain_names = ("input", "target")
    has_truth = True
    line_drawing: str | None = None

    def __init__(self, *, caption: str = "a photograph", stochastic: bool = False, **settings: Any) -> None:
        super().__init__(**settings)
        self.caption, self.stochastic = caption, stochastic
        self.prompts = {"a2b": caption}
        self.targets: dict[Stage, Images] = {}
        self.inputs: dict[Stage, Images] | None = None
        self.captions: dict[Stage, list[str]] = {}
        if self.folder is None:
            self._render()
        else:
            self._read(self.list_files(self.folder, self.seed))

    @classmethod
    def list_files(cls, root: Path, seed: int) -> Pairs:
        """Files by stage: pairs, or photographs where inputs can be computed; override it for another layout.

        Args:
            root: the folder.
            seed: of images held out from training, where a stage has none of its own.

        Raises:
            FileNotFoundError: a folder is missing or empty.
            ValueError: names of inputs and targets differ.
        """
        return find_pairs(root, seed) if cls.line_drawing is None or has_domains(root) else find_photographs(root, seed)

    def _read(self, pairs: Pairs) -> None:
        domains = [pairs.targets, *([pairs.inputs] if pairs.inputs else [])]
        sizes = check_headers(path for domain in domains for files in domain.files.values() for path in texts(files))
        if pairs.inputs and (differ := different_shapes(pairs, sizes, (self.transform.resize, self.eval_size))):
            raise ValueError(differ)

        def images(domain: Domain) -> dict[Stage, Images]:
            used = {stage: self.in_use(stage, domain.files[stage]) for stage in STAGES}
            return {
                stage: FileImages(used[stage], domain.folders[stage], sizes, self.short_side(stage)) for stage in STAGES
            }

        self.targets = images(pairs.targets)
        self.inputs = images(pairs.inputs) if pairs.inputs else None
        for stage, files in pairs.targets.files.items():
            own = pairs.captions.get(stage, [None] * len(files))
            self.captions[stage] = [caption or self.caption for caption in self.in_use(stage, own)]
        self.test_is_validation = pairs.targets.test_is_validation

    def _render(self) -> None:
        first = 0
        for stage, count in self.scene_counts.items():
            scenes = self.rendered("a", stage, first)
            self.targets[stage] = scenes
            self.captions[stage] = [scenes.caption(k) for k in range(len(scenes))]
            first += count

    @property
    def computed(self) -> str | None:
        """The name of the line drawing that inputs are computed by; None for pairs, which are used as they are."""
        return self.line_drawing if self.inputs is None else None

    @property
    def preprocessing(self) -> dict[str, int | str]:
        """Describe how images become inputs; written to every adapter."""
        return {**super().preprocessing, "preprocess": self.computed or "none"}

    def describe_splits(self) -> str:
        """Numbers of pairs by stage."""
        what = "pairs" if self.computed is None else f"photographs with {self.computed} lines"
        note = " (test is validation)" if self.test_is_validation else ""
        return f"{what}, {', '.join(f'{stage} {len(images)}' for stage, images in self.targets.items())}{note}"

    def suspicions(self) -> list[str]:
        """See `plausibility.suspicions`."""
        if self.is_rendered:
            return []
        if self.inputs is None:
            return suspicions(self.targets["train"], None, ("the photographs", ""))
        names = ("the inputs", "the targets")
        return suspicions(self.inputs["train"], self.targets["train"], names, self.shares_images)

    def training_set(self) -> PairedTraining:
        """Samples of inputs with targets."""
        inputs = LINE_DRAWINGS[str(self.computed)] if self.inputs is None else self.inputs["train"]
        return PairedTraining(
            self.targets["train"], inputs, self.captions["train"], self.transform, self.seed, self.stochastic
        )

    def evaluation_set(self, direction: Direction, stage: EvaluationStage) -> EvaluationImages:
        """Inputs, with their targets as ground truth."""
        targets, captions = self.targets[stage], self.captions[stage]
        if self.inputs is None:
            drawing = LINE_DRAWINGS[str(self.computed)]
            return EvaluationImages(targets, self.eval_size, line_drawing=drawing, captions=captions)
        return EvaluationImages(self.inputs[stage], self.eval_size, truths=targets, captions=captions)

    def reference_set(self, direction: Direction, stage: EvaluationStage) -> EvaluationImages:
        """Targets."""
        return EvaluationImages(self.targets[stage], self.eval_size)
