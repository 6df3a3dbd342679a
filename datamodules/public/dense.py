"""DENSE, SeeingThroughFog (Bijelic et al. 2020): road scenes in fog, snow and rain.

.. code-block:: text

    root/SeeingThroughFog/cam_stereo_left_lut/*.png     8-bit images of the left camera
    root/SeeingThroughFog/splits/dense_fog_day.txt      one "recording,frame" per line, from the authors' repository

Assumed of the names: the line ``2018-02-06_14-24-41,00400`` stands for the file ``2018-02-06_14-24-41_00400.png``.
The folder may also be called ``dense`` or ``DENSE``, and the list may lie directly in it.
"""

from pathlib import Path

from datamodules.files.layouts import STAGES, Domain, complete, hold_out
from datamodules.public.dataset import PublicDataset
from images.listing import list_images

FOLDERS = ("SeeingThroughFog", "SeeingThroughFogCompressed", "dense", "DENSE", ".")
FOG_LIST = "dense_fog_day.txt"
CAMERA = "cam_stereo_left_lut"

DENSE = PublicDataset(
    name="dense",
    about="DENSE, SeeingThroughFog: road scenes in fog, snow and rain; research use, registration",
    how="Register at https://www.uni-ulm.de/en/in/driveu/projects/dense-datasets and download the archive with the "
    f"folder {CAMERA} (SeeingThroughFog). The split lists are the folder splits of\n"
    "https://github.com/princeton-computational-imaging/SeeingThroughFog (its 'Download ZIP').\n"
    "No checksum is known.",
    experiment="clear2foggy",
    files={
        rf"(?:^|/){CAMERA}/([^/]+\.png)$": rf"{FOLDERS[0]}/{CAMERA}/\1",
        r"(?:^|/)splits/([^/]+\.txt)$": rf"{FOLDERS[0]}/splits/\1",
    },
    needed=(f"{FOLDERS[0]}/{CAMERA}", f"{FOLDERS[0]}/splits"),
    together_with=("bdd100k",),
)


def find_dense_fog(root: Path, seed: int) -> Domain:
    """Images of dense fog by day.

    DENSE has no test split of its fog: a seeded tenth of the list is held out as one, and another for validation.

    Args:
        root: holds one of `FOLDERS`.
        seed: of the held-out images.

    Raises:
        FileNotFoundError: the images or the list are missing, or the list names no image that is there.
    """
    dense = next((root / name for name in FOLDERS if (root / name / CAMERA).is_dir()), None)
    if dense is None:
        raise FileNotFoundError(
            f"No foggy images: looked for {root / FOLDERS[0] / CAMERA}. `make data` says how to get them (dense)."
        )
    lists = [dense / "splits" / FOG_LIST, dense / FOG_LIST]
    path = next((path for path in lists if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"No list of foggy images: looked for {lists[0]}. `make data` says how to get it (dense)."
        )
    wanted = {line.strip().replace(",", "_") for line in path.read_text().splitlines() if line.strip()}
    chosen = [image for image in list_images(dense / CAMERA) if image.stem in wanted]
    if not chosen:
        raise FileNotFoundError(f"None of the {len(wanted)} images listed in {path} is in {dense / CAMERA}.")
    kept, test = hold_out(chosen, seed + 1, f"{path}")
    files, test_is_validation = complete({"train": kept, "test": test}, seed, f"{path}")
    return Domain(dict.fromkeys(STAGES, dense / CAMERA), files, test_is_validation)
