"""Unpaired data: two domains of images without correspondence, from two folders or rendered."""

from pathlib import Path
from typing import Any

from datamodules.base import EvaluationStage, TranslationData
from datamodules.batches import DOMAINS, Direction, DomainLetter
from datamodules.files.images import FileImages, Images
from datamodules.files.layouts import STAGES, Domain, Stage, existing_root, find_two_folders, find_unpaired, read_prompt
from datamodules.plausibility import suspicions
from datamodules.samples import EvaluationImages, UnpairedTraining
from images.headers import check_headers
from images.listing import texts


class UnpairedImages(TranslationData):
    """Any two folders of images.

    .. code-block:: text

        root/train_A  root/train_B                 (or trainA, trainB)
        root/val_A    root/val_B                   optional, else a tenth of train
        root/test_A   root/test_B                  optional, else validation
        root/fixed_prompt_a.txt, fixed_prompt_b.txt  optional

    Args:
        root_b: folder of the images of B, anywhere; `root` then holds those of A, and neither needs a layout.
        prompt_a: describes domain A; else the folder's file, else the class's `default_prompts`.
        prompt_b: describes domain B, likewise.
        **settings: as in `TranslationData`.

    Attributes:
        images: images by stage and domain.
        truths: ground truth of each image of `images`, by stage and domain, where the data has it.
        default_prompts: descriptions of A and B.
    """

    default_prompts = ("picture of domain A", "picture of domain B")

    def __init__(
        self, *, root_b: str | None = None, prompt_a: str | None = None, prompt_b: str | None = None, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.images: dict[Stage, dict[DomainLetter, Images]] = {}
        self.truths: dict[Stage, dict[DomainLetter, Images]] = {}
        own: list[str | None] = [None, None]
        if self.folder is None:
            if root_b is not None:
                raise ValueError(f"data: root_b is {root_b}, but root, the folder of A, is not given.")
            self._render()
        elif root_b is not None:
            self._read(*find_two_folders(self.folder, existing_root(root_b), self.seed))
            self.root = f"{self.root} and {root_b}"
        else:
            self._read(*self.list_files(self.folder, self.seed))
            own = [read_prompt(self.folder, letter) for letter in "ab"]
        describes_a, describes_b = (
            given or found or default
            for given, found, default in zip((prompt_a, prompt_b), own, self.default_prompts, strict=True)
        )
        self.prompts = {"a2b": describes_b, "b2a": describes_a}

    @classmethod
    def list_files(cls, root: Path, seed: int) -> tuple[Domain, Domain]:
        """Files of A and B by stage; override it for another layout of folders.

        Args:
            root: the folder.
            seed: of images held out from training, where a stage has none of its own.

        Raises:
            FileNotFoundError: a folder is missing or empty.
        """
        return find_unpaired(root, seed)

    def _read(self, a: Domain, b: Domain) -> None:
        sizes = check_headers(path for domain in (a, b) for files in domain.files.values() for path in texts(files))

        def images(domain: Domain, stage: Stage) -> Images:
            return FileImages(
                self.in_use(stage, domain.files[stage]), domain.folders[stage], sizes, self.short_side(stage)
            )

        self.images = {stage: {"a": images(a, stage), "b": images(b, stage)} for stage in STAGES}
        self.test_is_validation = a.test_is_validation or b.test_is_validation

    def _render(self) -> None:
        # No scene is in two stages or, in training, in both domains.  Validation and test show the same scenes in both,
        # so that each image is the other's ground truth.
        self.has_truth = True
        first = 0
        for stage, count in self.scene_counts.items():
            first_b = first + count if stage == "train" else first
            a, b = self.rendered("a", stage, first), self.rendered("b", stage, first_b)
            self.images[stage] = {"a": a, "b": b}
            if stage != "train":
                self.truths[stage] = {"a": b, "b": a}
            first = first_b + count

    def describe_splits(self) -> str:
        """Numbers of A and B images by stage."""
        numbers = [f"{stage} {len(pair['a'])} + {len(pair['b'])}" for stage, pair in self.images.items()]
        note = " (test is validation)" if self.test_is_validation else ""
        return f"{' and '.join(self.domain_names)}, {', '.join(numbers)}{note}"

    def suspicions(self) -> list[str]:
        """See `plausibility.suspicions`."""
        train = self.images["train"]
        return [] if self.is_rendered else suspicions(train["a"], train["b"], self.domain_names)

    def training_set(self) -> UnpairedTraining:
        """Samples of both domains."""
        return UnpairedTraining(self.images["train"]["a"], self.images["train"]["b"], self.transform, self.seed)

    def evaluation_set(self, direction: Direction, stage: EvaluationStage) -> EvaluationImages:
        """Images of the direction's source domain."""
        source, _ = DOMAINS[direction]
        return EvaluationImages(self.images[stage][source], self.eval_size, self.truths.get(stage, {}).get(source))

    def reference_set(self, direction: Direction, stage: EvaluationStage) -> EvaluationImages:
        """Images of the direction's target domain."""
        _, target = DOMAINS[direction]
        return EvaluationImages(self.images[stage][target], self.eval_size)
