"""The data side: public data sets, folders of one's own, and rendered scenes."""

from datamodules.base import TranslationData
from datamodules.clear_foggy import ClearFoggy
from datamodules.day_night import DayNight
from datamodules.edge_sketch import EdgeToImage, SketchToImage
from datamodules.horse_zebra import HorseZebra
from datamodules.paired import PairedImages
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
