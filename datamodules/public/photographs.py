"""Photographs for the paired experiments, whose inputs (edges, sketches) are computed from them."""

from datamodules.public.dataset import PublicDataset

PHOTOGRAPHS = PublicDataset(
    name="photographs",
    about="photographs of your own, to compute edges or sketches from",
    how="Put images into FOLDER/train and FOLDER/test (or all into FOLDER: then a part is held out).",
    experiment="edge2image",
)
