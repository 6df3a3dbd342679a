"""BDD100K's layout (Yu et al. 2020): 100 000 driving pictures with weather and time of day in the label files."""

import json
from collections.abc import Callable
from pathlib import Path

from datamodules.files.layouts import STAGES, Domain, complete, find_unpaired, has_domains
from datamodules.unpaired import UnpairedImages
from images.listing import list_images
from storage import digest, read_cache, size_and_mtime, write_cache

LABELS = ("bdd100k_labels_images_{}.json", "bdd100k_labels_images_{}_20.json", "det_20/det_{}.json")
Attributes = dict[str, str]


def find_bdd100k(root: Path) -> Path | None:
    """The folder that holds ``images/100k``: ``root/bdd100k`` or ``root`` itself; None if neither does."""
    return next((path for path in (root / "bdd100k", root) if (path / "images" / "100k" / "train").is_dir()), None)


def read_attributes(folder: Path, split: str) -> dict[str, Attributes]:
    """Attributes ("weather", "timeofday", "scene") of each picture by its file name.

    Args:
        folder: holds ``labels/``.
        split: "train" or "val".

    Raises:
        FileNotFoundError: no label file.
        ValueError: it has another form.
    """
    candidates = [folder / "labels" / name.format(split) for name in LABELS]
    path = next((path for path in candidates if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"No BDD100K labels for {split}: looked for {candidates[0]} and "
            f"{candidates[-1].relative_to(folder)}. See: make data NAME=bdd100k"
        )
    # The file has more than a gigabyte of boxes: what is needed of it is kept apart.
    name = f"bdd100k-{digest(str(path.absolute()))}.json"
    cache = read_cache(name)
    if cache.get("stamp") != size_and_mtime(path):
        try:
            frames = json.loads(path.read_text())
            attributes = {frame["name"]: frame.get("attributes") or {} for frame in frames}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is no BDD100K label file (a list of objects with name and attributes): {error}"
            ) from error
        cache = {"stamp": size_and_mtime(path), "attributes": attributes}
        write_cache(name, cache)
    return dict(cache["attributes"])


def select(folder: Path, split: str, what: str, wanted: Callable[[Attributes], bool]) -> list[Path]:
    """Pictures of a split whose attributes fit.

    Args:
        folder: as `find_bdd100k` gives it.
        split: "train" or "val".
        what: what is wanted, for the error.
        wanted: decides by the attributes.

    Raises:
        FileNotFoundError: none fits.
    """
    images = folder / "images" / "100k" / split
    attributes = read_attributes(folder, split)
    chosen = [path for path in list_images(images) if path.name in attributes and wanted(attributes[path.name])]
    if not chosen:
        raise FileNotFoundError(
            f"No picture in {images} is labelled {what} ({len(attributes)} labels read). "
            "Do labels and pictures belong together?"
        )
    return chosen


def domain(folder: Path, seed: int, what: str, wanted: Callable[[Attributes], bool]) -> Domain:
    """One domain: BDD100K's train trains, less a hold-out for validation; its val is the test split."""
    found = {"train": select(folder, "train", what, wanted)}
    if (folder / "images" / "100k" / "val").is_dir():
        found["test"] = select(folder, "val", what, wanted)
    images = folder / "images" / "100k"
    files, fallback = complete(found, seed, f"{images / 'train'} ({what})")
    return Domain(dict.fromkeys(STAGES, images), files, fallback)


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
        folder = find_bdd100k(root)
        if folder is None or has_domains(root):
            return find_unpaired(root, seed)
        return (
            domain(folder, seed, "timeofday: daytime", lambda a: a.get("timeofday") == "daytime"),
            domain(folder, seed, "timeofday: night", lambda a: a.get("timeofday") == "night"),
        )
