"""Translations that another program made, found by the names of their inputs."""

from pathlib import Path

import torch
from torch import Tensor

from datamodules.batches import EvaluationBatch
from images.listing import list_images
from images.reading import read_image


class ExternalTranslations:
    """Images in a folder, as a function of a batch of inputs.

    Args:
        folder: with sub-folders ``a2b/`` and ``b2a/``, or all of a2b.
        short_side: to which they are resized, as the inputs were; pixels.

    Attributes:
        folders: folder by direction.
    """

    def __init__(self, folder: Path, short_side: int) -> None:
        self.folders = {d: folder / d for d in ("a2b", "b2a") if (folder / d).is_dir()} or {"a2b": folder}
        self.short_side = short_side
        self._named: dict[tuple[str, str], list[Path]] = {}
        for direction, below in self.folders.items():
            for path in list_images(below):
                name = path.relative_to(below).with_suffix("")
                for key in dict.fromkeys((name.as_posix(), f"*/{name.name}")):
                    self._named.setdefault((direction, key), []).append(path)
        self._input_of: dict[Path, str] = {}

    def __call__(self, batch: EvaluationBatch) -> Tensor:
        """The translations of a batch, `(B, 3, H, W)` in [-1, 1].

        Raises:
            FileNotFoundError: one is missing.
            ValueError: one has another shape than its input, or cannot be told from another.
        """
        images = []
        for name, real in zip(batch.names, batch.real, strict=True):
            path = self.find(name, batch.direction)
            image = torch.from_numpy(read_image(path, self.short_side))
            if image.shape != real.shape:
                raise ValueError(
                    f"{path} has another shape than its input {name}: {tuple(image.shape)} against {tuple(real.shape)}."
                )
            images.append(image)
        return torch.stack(images).to(batch.real.device)

    def find(self, name: str, direction: str) -> Path:
        """Find the translation of an input: the file of the same path, else of the longest matching end of it.

        Raises:
            FileNotFoundError: there is none.
            ValueError: several could be meant, or the one was an earlier input's already.
        """
        parts = Path(name).with_suffix("").parts
        keys = ["/".join(parts[k:]) for k in range(len(parts))]
        candidates = ((direction, key) for key in (*keys, f"*/{parts[-1]}"))
        found = next((self._named[key] for key in candidates if key in self._named), [])
        if not found:
            raise FileNotFoundError(
                f"No image for {name} ({direction}): looked for {keys[0]}.* below {self.folders[direction]}."
            )
        if len(found) > 1:
            raise ValueError(f"{found[0]} and {found[1]} could both be the translation of {name}: keep one of them.")
        other = self._input_of.setdefault(found[0], name)
        if other != name:
            raise ValueError(
                f"{found[0]} could be the translation of {other} and of {name}: keep the inputs' sub-folders."
            )
        return found[0]
