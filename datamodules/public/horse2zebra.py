"""Horses and zebras (Zhu et al. 2017, CycleGAN): 1067 + 1334 training and 120 + 140 test images of 256 x 256."""

from pathlib import Path

from datamodules.files.layouts import has_domains
from datamodules.public.dataset import Download, PublicDataset

FOLDER = "horse2zebra"
HORSE2ZEBRA = PublicDataset(
    name="horse2zebra",
    about="horse2zebra (CycleGAN): 1187 horses and 1474 zebras of ImageNet, 256 x 256; research use",
    how="Downloaded from the authors' server (117 MB).",
    experiment="horse2zebra",
    folder=FOLDER,
    files={r"(?:^|/)((?:train|test)[AB]/[^/]+\.(?:jpg|jpeg|png))$": rf"{FOLDER}/\1"},
    needed=tuple(f"{FOLDER}/{split}{letter}" for split in ("train", "test") for letter in "AB"),
    # The authors publish no checksum.  Size and SHA-256 are TensorFlow Datasets' (url_checksums/cycle_gan.txt).
    download=Download(
        url="https://efrosgans.eecs.berkeley.edu/cyclegan/datasets/horse2zebra.zip",
        size=116867962,
        sha256="a74d9d392eecca9966b51287a76ca126af473d9de4f3e8fc0e9cda08fa1730a1",
    ),
)


def find_horse2zebra(root: Path) -> Path:
    """The folder with trainA, trainB, testA and testB: ``root/horse2zebra`` where only that one has them, or `root`."""
    inner = root / FOLDER
    return inner if inner.is_dir() and not has_domains(root) else root
