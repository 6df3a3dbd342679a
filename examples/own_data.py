"""A data set: folders summer/ and winter/, split by file name."""

from pathlib import Path

from datamodules import UnpairedImages
from datamodules.files.layouts import Domain
from images.listing import list_images


class Seasons(UnpairedImages):
    """Streets in summer (A) and in winter (B)."""

    domain_names = ("summer", "winter")
    default_prompts = ("a street in summer", "a street in winter")

    @classmethod
    def list_files(cls, root: Path, seed: int) -> tuple[Domain, Domain]:
        """The images of both domains by split: the first tenth validates, the second is for the final report."""
        return cls.split(root / "summer"), cls.split(root / "winter")

    @staticmethod
    def split(folder: Path) -> Domain:
        """A folder's images by split."""
        files = list_images(folder)
        tenth = max(2, len(files) // 10)
        stages = {"validate": files[:tenth], "test": files[tenth : 2 * tenth], "train": files[2 * tenth :]}
        return Domain(dict.fromkeys(stages, folder), stages)
