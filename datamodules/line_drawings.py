"""Photographs from edges and from sketches (paper Sec. 4.3), the lines computed from the photographs on the fly."""

from typing import Any

from datamodules.paired import PairedImages


class EdgeToImage(PairedImages):
    """Canny edges (100, 200), white on black, to the photograph.

    .. code-block:: text

        root/train/*   root/test/*   root/val/*     photographs; without test and val a part of train is kept back
        root/*                                      or just photographs
        root/train_prompts.json ...                 optional captions by file name

    A folder of pairs (``train_A``, ``train_B``) is used as it is.  Without a folder, streets are drawn.
    """

    domain_names = ("edges", "photograph")
    contour = "canny"


class SketchToImage(PairedImages):
    """Sketch-like strokes, white on black, to the photograph; folders as in `EdgeToImage`.

    Args:
        stochastic: draw a strength from [0, 1] for each training sample, so that one sketch gives many pictures.
        **settings: as in `PairedImages`.
    """

    domain_names = ("sketch", "photograph")
    contour = "sketch"

    def __init__(self, *, stochastic: bool = True, **settings: Any) -> None:
        super().__init__(stochastic=stochastic, **settings)
