"""The data of the paper's five tasks: three unpaired (Sec. 4.1) and two paired (Sec. 4.3)."""

from pathlib import Path
from typing import Any

from datamodules.files.layouts import Domain, find_unpaired, has_domains
from datamodules.paired import PairedImages
from datamodules.public.bdd100k import Attributes, find_bdd100k, find_labelled
from datamodules.public.dense import find_dense_fog
from datamodules.public.horse2zebra import find_horse2zebra
from datamodules.scenes import PROMPTS
from datamodules.unpaired import UnpairedImages


class DayNight(UnpairedImages):
    """BDD100K by its label ``timeofday``: "daytime" is A, "night" is B.

    `root` is a folder as described in `datamodules.public.bdd100k`, or has ``train_A`` and ``train_B``.  Without it,
    streets by day and by night are rendered.
    """

    domain_names = ("day", "night")
    default_prompts = (PROMPTS["day_night", "a"], PROMPTS["day_night", "b"])
    scenes = "day_night"

    @classmethod
    def list_files(cls, root: Path, seed: int) -> tuple[Domain, Domain]:
        """Files of A and B by stage.

        Raises:
            FileNotFoundError: a folder or the labels are missing, or no image has the label.
        """
        folder = find_bdd100k(root)
        if folder is None or has_domains(root):
            return find_unpaired(root, seed)
        return (
            find_labelled(folder, seed, "timeofday: daytime", lambda labels: labels.get("timeofday") == "daytime"),
            find_labelled(folder, seed, "timeofday: night", lambda labels: labels.get("timeofday") == "night"),
        )


class ClearFoggy(UnpairedImages):
    """A: BDD100K labelled ``weather: clear`` and not taken at night or dusk.  B: DENSE's list of dense fog by day.

    `root` is a folder as described in `datamodules.public.bdd100k` and `datamodules.public.dense`, or has ``train_A``
    and ``train_B``.  Without it, streets with and without fog are rendered.
    """

    domain_names = ("clear", "foggy")
    default_prompts = (PROMPTS["clear_foggy", "a"], PROMPTS["clear_foggy", "b"])
    scenes = "clear_foggy"

    @classmethod
    def list_files(cls, root: Path, seed: int) -> tuple[Domain, Domain]:
        """Files of A and B by stage.

        Raises:
            FileNotFoundError: a folder, list or label file is missing, or names no image that is there.
        """
        folder = find_bdd100k(root)
        if folder is None or has_domains(root):
            return find_unpaired(root, seed)
        return find_labelled(folder, seed, "weather: clear", _clear_by_day), find_dense_fog(root, seed)


def _clear_by_day(labels: Attributes) -> bool:
    return labels.get("weather") == "clear" and labels.get("timeofday") not in ("night", "dawn/dusk")


class HorseZebra(UnpairedImages):
    """Horses and zebras of CycleGAN's data set horse2zebra.

    `root` is the folder with trainA, trainB, testA and testB, or the one that holds ``horse2zebra/``.  Without it,
    meadows with horses or zebras are rendered.
    """

    domain_names = ("horse", "zebra")
    default_prompts = (PROMPTS["horse_zebra", "a"], PROMPTS["horse_zebra", "b"])
    scenes = "horse_zebra"

    @classmethod
    def list_files(cls, root: Path, seed: int) -> tuple[Domain, Domain]:
        """Files of A and B by stage.

        Raises:
            FileNotFoundError: a folder is missing or empty.
        """
        return find_unpaired(find_horse2zebra(root), seed)


class EdgeToImage(PairedImages):
    """Canny edges (100, 200), white on black, to the photograph.

    .. code-block:: text

        root/train/*   root/test/*   root/val/*     photographs; without test and val a part of train is held out
        root/*                                      or just photographs
        root/train_prompts.json ...                 optional captions by file name

    A folder of pairs (``train_A``, ``train_B``) is used as it is.  Without `root`, streets are rendered.
    """

    domain_names = ("edges", "photograph")
    line_drawing = "canny"
    resolution = "tiles"
    scenes = "day_night"


class SketchToImage(PairedImages):
    """Sketch-like strokes, white on black, to the photograph; folders as in `EdgeToImage`.

    Args:
        stochastic: draw a strength from [0, 1] for each training sample, so that one sketch gives many images.
        **settings: as in `PairedImages`.
    """

    domain_names = ("sketch", "photograph")
    line_drawing = "sketch"
    resolution = "tiles"
    scenes = "day_night"

    def __init__(self, *, stochastic: bool = True, **settings: Any) -> None:
        super().__init__(stochastic=stochastic, **settings)
