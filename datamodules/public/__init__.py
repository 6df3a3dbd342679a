"""The public data sets of the five experiments: one module each for its layout, labels and download address.

Nothing here needs torch.
"""

from datamodules.public.bdd100k import BDD100K
from datamodules.public.dataset import PublicDataset
from datamodules.public.dense import DENSE
from datamodules.public.horse2zebra import HORSE2ZEBRA
from datamodules.public.photographs import PHOTOGRAPHS

DATASETS: dict[str, PublicDataset] = {data.name: data for data in (HORSE2ZEBRA, BDD100K, DENSE, PHOTOGRAPHS)}
"""Every public data set by its short name."""

__all__ = ["DATASETS", "PublicDataset"]
