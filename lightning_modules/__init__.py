"""CycleGAN-Turbo and pix2pix-Turbo as LightningModules."""

from lightning_modules.paired import Pix2PixTurbo
from lightning_modules.unpaired import CycleGANTurbo

__all__ = ["CycleGANTurbo", "Pix2PixTurbo"]
