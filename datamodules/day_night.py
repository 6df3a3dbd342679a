"""Day and night on the road, from BDD100K."""

from pathlib import Path

from datamodules import bdd100k
from datamodules.layouts import Domain, find_unpaired, has_domains
from datamodules.unpaired import UnpairedImages


class DayNight(UnpairedImages):
    """BDD100K by its label ``timeofday``: "daytime" is A, "night" is B.

    .. code-block:: text

        root/bdd100k/images/100k/train/*.jpg    trains and validates      (root may be bdd100k itself)
        root/bdd100k/images/100k/val/*.jpg      tests
        root/bdd100k/labels/bdd100k_labels_images_train.json, bdd100k_labels_images_val.json

    A folder with ``train_A`` and ``train_B`` works as well.  Without a folder, streets by day and night are drawn.
    """

    domain_names = ("day", "night")
    default_prompts = ("driving in the day", "driving in the night")
    scenes = "day_night"

    @classmethod
    def list_files(cls, root: Path, seed: int) -> tuple[Domain, Domain]:
        """Files of A and B by split.

        Raises:
            FileNotFoundError: a folder or the labels are missing, or no picture has the label.
        """
        folder = bdd100k.find_bdd100k(root)
        if folder is None or has_domains(root):
            return find_unpaired(root, seed)
        return (
            bdd100k.domain(folder, seed, "timeofday: daytime", lambda a: a.get("timeofday") == "daytime"),
            bdd100k.domain(folder, seed, "timeofday: night", lambda a: a.get("timeofday") == "night"),
        )
