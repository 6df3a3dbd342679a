"""BDD100K (Yu et al. 2020): 100 000 driving images with weather and time of day in the label files.

.. code-block:: text

    root/bdd100k/images/100k/train/*.jpg    trains and validates      (root may be bdd100k itself)
    root/bdd100k/images/100k/val/*.jpg      tests
    root/bdd100k/labels/bdd100k_labels_images_train.json, bdd100k_labels_images_val.json
"""

import json
from collections.abc import Callable
from pathlib import Path

from datamodules.files.layouts import STAGES, Domain, Stage, complete
from datamodules.public.dataset import PublicDataset
from images.listing import list_images
from storage import digest, read_cache, size_and_mtime, write_cache

BDD100K = PublicDataset(
    name="bdd100k",
    about="BDD100K: 100 000 driving images with weather and time of day; BDD100K licence, registration",
    how="Register at http://bdd-data.berkeley.edu and download '100K Images' and 'Labels' (of 2018, "
    "bdd100k_labels_release.zip) or 'Detection 2020'.\n"
    "No checksum is known; unpacking verifies the CRC of each file in a zip.",
    experiment="day2night",
    files={
        r"(?:^|/)100k/((?:train|val)/[^/]+\.jpg)$": r"bdd100k/images/100k/\1",
        r"(?:^|/)(bdd100k_labels_images_(?:train|val)\.json)$": r"bdd100k/labels/\1",
        r"(?:^|/)(det_20/det_(?:train|val)\.json)$": r"bdd100k/labels/\1",
    },
    needed=("bdd100k/images/100k/train", "bdd100k/images/100k/val", "bdd100k/labels"),
)

LABELS = ("bdd100k_labels_images_{}.json", "bdd100k_labels_images_{}_20.json", "det_20/det_{}.json")
Attributes = dict[str, str]


def find_bdd100k(root: Path) -> Path | None:
    """The folder that holds ``images/100k``: ``root/bdd100k`` or ``root`` itself; None if neither does."""
    return next((path for path in (root / "bdd100k", root) if (path / "images" / "100k" / "train").is_dir()), None)


def read_attributes(folder: Path, split: str) -> dict[str, Attributes]:
    """Attributes ("weather", "timeofday", "scene") of each image by its file name.

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
            f"{candidates[-1].relative_to(folder)}. `make data` says how to get them (bdd100k)."
        )
    # The file has more than a gigabyte of boxes: the attributes are cached.
    name = f"bdd100k-{digest(str(path.absolute()))}.json"
    cache = read_cache(name)
    if cache.get("stamp") != size_and_mtime(path):
        try:
            frames = json.loads(path.read_text())
            attributes = {frame["name"]: frame.get("attributes") or {} for frame in frames}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a BDD100K label file (a list of objects with name and attributes): {error}"
            ) from error
        cache = {"stamp": size_and_mtime(path), "attributes": attributes}
        write_cache(name, cache)
    return dict(cache["attributes"])


def select_images(folder: Path, split: str, what: str, wanted: Callable[[Attributes], bool]) -> list[Path]:
    """Images of a split whose attributes fit.

    Args:
        folder: as `find_bdd100k` gives it.
        split: "train" or "val".
        what: the wanted attributes in words, for the error.
        wanted: whether an image with these attributes is wanted.

    Raises:
        FileNotFoundError: none fits.
    """
    images = folder / "images" / "100k" / split
    attributes = read_attributes(folder, split)
    chosen = [path for path in list_images(images) if path.name in attributes and wanted(attributes[path.name])]
    if not chosen:
        raise FileNotFoundError(
            f"No image in {images} is labelled {what} ({len(attributes)} labels read). "
            "Do labels and images belong together?"
        )
    return chosen


def find_labelled(folder: Path, seed: int, what: str, wanted: Callable[[Attributes], bool]) -> Domain:
    """The images with some label: BDD100K's train split less a part held out for validation, and its val as test split.

    Args:
        folder: as `find_bdd100k` gives it.
        seed: of the held-out images.
        what: the wanted attributes in words, for messages.
        wanted: whether an image with these attributes is wanted.

    Raises:
        FileNotFoundError: the labels are missing, or no image has the label.
    """
    found: dict[Stage, list[Path]] = {"train": select_images(folder, "train", what, wanted)}
    if (folder / "images" / "100k" / "val").is_dir():
        found["test"] = select_images(folder, "val", what, wanted)
    images = folder / "images" / "100k"
    files, test_is_validation = complete(found, seed, f"{images / 'train'} ({what})")
    return Domain(dict.fromkeys(STAGES, images), files, test_is_validation)
