"""The data side: public data sets, folders of one's own, and rendered scenes."""

from datamodules.base import TranslationData
from datamodules.line_drawings import EdgeToImage, SketchToImage
from datamodules.paired import PairedImages
from datamodules.public.bdd100k import DayNight
from datamodules.public.dense import ClearFoggy
from datamodules.public.horse2zebra import HorseZebra
from datamodules.unpaired import UnpairedImages

__all__ = [
    "ClearFoggy",
    "DayNight",
    "EdgeToImage",
    "HorseZebra",
    "PairedImages",
    "SketchToImage",
    "TranslationData",
    "UnpairedImages",
]
