"""Horses and zebras (Zhu et al. 2017, CycleGAN)."""

from pathlib import Path

from datamodules.files.layouts import Domain, find_unpaired, has_domains
from datamodules.unpaired import UnpairedImages


class HorseZebra(UnpairedImages):
    """CycleGAN's archive horse2zebra: 1067 + 1334 training and 120 + 140 test pictures of 256 x 256.

    ``root`` is the folder with trainA, trainB, testA and testB, or the one that holds ``horse2zebra/``; any folder with
    ``train_A`` and ``train_B`` works as well.  Without a folder, meadows with horses or zebras are drawn.
    """

    domain_names = ("horse", "zebra")
    default_prompts = ("picture of a horse", "picture of a zebra")
    scenes = "horse_zebra"

    @classmethod
    def list_files(cls, root: Path, seed: int) -> tuple[Domain, Domain]:
        """Files of A and B by split.

        Raises:
            FileNotFoundError: a folder is missing or empty.
        """
        inner = root / "horse2zebra"
        return find_unpaired(inner if inner.is_dir() and not has_domains(root) else root, seed)
