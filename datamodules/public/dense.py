"""Clear days and dense fog on the road: BDD100K against DENSE (SeeingThroughFog)."""

from pathlib import Path

from datamodules.files.layouts import STAGES, Domain, complete, find_unpaired, has_domains, hold_out
from datamodules.public import bdd100k
from datamodules.unpaired import UnpairedImages
from images.listing import list_images

DENSE_FOLDERS = ("SeeingThroughFog", "SeeingThroughFogCompressed", "dense", "DENSE", ".")
SPLIT_LIST = "dense_fog_day.txt"
CAMERA = "cam_stereo_left_lut"


class ClearFoggy(UnpairedImages):
    """A: BDD100K labelled ``weather: clear`` and not taken at night or dusk.  B: DENSE's list of dense fog by day.

    .. code-block:: text

        root/bdd100k/images/100k/{train,val}/*.jpg, root/bdd100k/labels/bdd100k_labels_images_{train,val}.json
        root/SeeingThroughFog/cam_stereo_left_lut/*.png     8-bit pictures of the left camera
        root/SeeingThroughFog/splits/dense_fog_day.txt      one "recording,frame" per line, from the authors' repository

    Assumed of DENSE (Bijelic et al. 2020): the line ``2018-02-06_14-24-41,00400`` names the file
    ``2018-02-06_14-24-41_00400.png``; the folder may also be called ``dense`` or ``DENSE``, and the list may lie beside
    the pictures' folder.  DENSE has no test split of its fog: a seeded tenth of the list is kept back as one.

    A folder with ``train_A`` and ``train_B`` works as well.  Without a folder, streets with and without fog are drawn.
    """

    domain_names = ("clear", "foggy")
    default_prompts = ("driving on a clear day", "driving in dense fog")
    scenes = "clear_foggy"

    @classmethod
    def list_files(cls, root: Path, seed: int) -> tuple[Domain, Domain]:
        """Files of A and B by split.

        Raises:
            FileNotFoundError: a folder, list or label file is missing, or names no picture that is there.
        """
        folder = bdd100k.find_bdd100k(root)
        if folder is None or has_domains(root):
            return find_unpaired(root, seed)
        clear = bdd100k.domain(folder, seed, "weather: clear", _clear_day)
        return clear, _dense_fog(root, seed)


def _clear_day(attributes: bdd100k.Attributes) -> bool:
    return attributes.get("weather") == "clear" and attributes.get("timeofday") not in ("night", "dawn/dusk")


def _dense_fog(root: Path, seed: int) -> Domain:
    dense = next((root / name for name in DENSE_FOLDERS if (root / name / CAMERA).is_dir()), None)
    if dense is None:
        raise FileNotFoundError(
            f"No foggy pictures: looked for {root / DENSE_FOLDERS[0] / CAMERA}. See: make data NAME=dense"
        )
    lists = [dense / "splits" / SPLIT_LIST, dense / SPLIT_LIST]
    path = next((path for path in lists if path.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"No list of foggy pictures: looked for {lists[0]}. See: make data NAME=dense")
    wanted = {line.strip().replace(",", "_") for line in path.read_text().splitlines() if line.strip()}
    chosen = [picture for picture in list_images(dense / CAMERA) if picture.stem in wanted]
    if not chosen:
        raise FileNotFoundError(f"None of the {len(wanted)} pictures listed in {path} is in {dense / CAMERA}.")
    kept, test = hold_out(chosen, seed + 1, f"{path}")
    files, fallback = complete({"train": kept, "test": test}, seed, f"{path}")
    return Domain(dict.fromkeys(STAGES, dense / CAMERA), files, fallback)
