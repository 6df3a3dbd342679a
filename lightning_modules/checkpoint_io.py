"""Writes checkpoints beside their target, so that each appears whole, and reads them without running code."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from networks.checkpoints.adapter import read_checkpoint
from storage import atomic_write


class WholeCheckpoints(TorchCheckpointIO):
    """Replaces Lightning's writer, which copies from the temporary folder: a full disk leaves half a file."""

    def save_checkpoint(self, checkpoint: Mapping[str, Any], path: str | Path, storage_options: object = None) -> None:
        """Write a checkpoint.

        Raises:
            OSError: it cannot be written; the file that was there before is unchanged.
        """
        with atomic_write(Path(path)) as part:
            torch.save(dict(checkpoint), part)

    def load_checkpoint(self, path: str | Path, *args: object, **kwargs: object) -> dict[str, Any]:
        """Read a checkpoint of this project; see `read_checkpoint`."""
        return read_checkpoint(path)
