"""Two domains without correspondence: any two folders, and what the public data sets share."""

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from datamodules.base import TranslationData
from datamodules.batches import UnpairedBatch
from datamodules.files.layouts import STAGES, Domain, find_unpaired, read_prompt
from datamodules.samples import EvaluationImages, FileImages, Images, UnpairedFolder, collate_unpaired
from datamodules.scenes.cached import KeptScenes


class UnpairedImages(TranslationData):
    """Any two folders of pictures.

    .. code-block:: text

        root/train_A  root/train_B                 (or trainA, trainB)
        root/val_A    root/val_B                   optional, else a tenth of train
        root/test_A   root/test_B                  optional, else validation
        root/fixed_prompt_a.txt, fixed_prompt_b.txt  optional

    Args:
        prompt_a: describes domain A; else the folder's file, else the class's own words.
        prompt_b: describes domain B, likewise.
        **settings: as in `TranslationData`.
    """

    default_prompts = ("picture of domain A", "picture of domain B")
    scenes: str | None = None
    """Name of the pair of worlds that is rendered without a folder."""

    def __init__(self, *, prompt_a: str | None = None, prompt_b: str | None = None, **settings: Any) -> None:
        self._given = (prompt_a, prompt_b)
        super().__init__(**settings)

    @classmethod
    def list_files(cls, root: Path, seed: int) -> tuple[Domain, Domain]:
        """Files of A and B by split.

        Raises:
            FileNotFoundError: a folder is missing or empty.
        """
        return find_unpaired(root, seed)

    def prepare_folder(self, root: Path) -> None:
        """List both domains and check every header."""
        domains = self.list_files(root, self.seed)
        sizes = self.checked([path for domain in domains for files in domain.files.values() for path in files])
        self.images: dict[str, dict[str, Images]] = {
            stage: {
                letter: FileImages(self._in_use(stage, domain.files[stage]), domain.folders[stage], sizes)
                for letter, domain in zip("ab", domains, strict=True)
            }
            for stage in STAGES
        }
        self.truths: dict[str, dict[str, Images]] = {}
        self.test_is_validation = any(domain.test_is_validation for domain in domains)
        self._set_prompts([read_prompt(root, letter) for letter in "ab"])

    def _in_use(self, stage: str, files: list[Path]) -> list[Path]:
        return [files[k] for k in self.chosen(stage, len(files))]

    def prepare_scenes(self, size: int) -> None:
        """Render both domains: no scene is in two splits or, in training, in both domains.

        Validation and test show the same scenes in both, so that one domain's picture is the other's true counterpart.

        Raises:
            ValueError: this class has no scenes.
        """
        if self.scenes is None:
            super().prepare_scenes(size)
        self.has_truth = True
        self.images, self.truths = {}, {}
        first = 0
        for stage, count in self.scene_counts.items():
            apart = count if stage == "train" else 0
            starts = {"a": first, "b": first + apart}
            first += count + apart
            side, used = (size, self.limited(count)) if stage == "train" else (self.eval_size, count)
            self.images[stage] = {
                d: KeptScenes(self.scene_cache, str(self.scenes), d, self.seed, starts[d], used, side) for d in "ab"
            }
            if not apart:
                self.truths[stage] = {"a": self.images[stage]["b"], "b": self.images[stage]["a"]}
        self._set_prompts([None, None])

    def _set_prompts(self, found: list[str | None]) -> None:
        a, b = (
            given or own or default
            for given, own, default in zip(self._given, found, self.default_prompts, strict=True)
        )
        self.prompts = {"a2b": b, "b2a": a}

    def describe_splits(self) -> str:
        """Numbers of A and B images by split."""
        numbers = [f"{stage} {len(pair['a'])} + {len(pair['b'])}" for stage, pair in self.images.items()]
        note = " (test is validation)" if self.test_is_validation else ""
        return f"{' and '.join(self.domain_names)}, {', '.join(numbers)}{note}"

    def training_set(self) -> Dataset[Any]:
        """Samples of both domains."""
        return UnpairedFolder(self.images["train"]["a"], self.images["train"]["b"], self.transform, self.seed)

    @staticmethod
    def collate(samples: list[dict[str, Any]]) -> UnpairedBatch:
        """Training samples => batch."""
        return collate_unpaired(samples)

    def evaluation_set(self, direction: str, stage: str) -> EvaluationImages:
        """Images of the direction's source domain."""
        source = direction[0]
        return EvaluationImages(self.images[stage][source], self.eval_size, self.truths.get(stage, {}).get(source))

    def reference_set(self, direction: str, stage: str) -> EvaluationImages:
        """Images of the direction's target domain."""
        return EvaluationImages(self.images[stage][direction[-1]], self.eval_size)
