"""`Translator`: the one path from an image to its translation, for adapters and exported models alike."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from images.ranges import Array, check_range, to_pixels
from inference.backends import Backend
from inference.backends.exported import MANIFEST, ExportedBackend
from inference.processing import Preprocessing, pad

AnyArray = np.ndarray[Any, Any]


class Translator:
    """Translates images with a trained adapter or an exported model.

    Example:
        >>> translator = Translator.load("runs/clear2foggy/pocket/version_0")
        >>> translator("photo.jpg", size=512).save("foggy.png")

    Attributes:
        backend: what computes the translations.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @classmethod
    def load(
        cls, path: str | Path, precision: str = "auto", device: str = "auto", base: str | None = None
    ) -> "Translator":
        """Load an adapter or an exported model.

        Args:
            path: run folder, adapter folder, checkpoint, released .pkl, or the folder of an exported model.
            precision: "float32", "bfloat16", or "auto": the faster one here of those two.  An exported model has the
                precision that it was exported with.
            device: "cpu", another name of a device, or "auto": the accelerator if there is one.
            base: where the base is, if not where training found it; needed for a .pkl.

        Raises:
            FileNotFoundError: the path or the base is not there.
            ValueError: they cannot be read, or do not fit each other; no such device or precision here.
        """
        backend: Backend
        if (Path(path) / MANIFEST).is_file():
            if base is not None:
                raise ValueError(f"{path} is an exported model, which holds its base: leave out base={base}.")
            backend = ExportedBackend(path, precision, device)
        else:
            from inference.backends.torch import TorchBackend

            backend = TorchBackend(path, precision, device, base)
        return cls(backend)

    @property
    def description(self) -> str:
        """One line for logs: base, backend, precision and device."""
        backend = self.backend
        return f"{backend.base_description}, by {backend.name} in {backend.precision} on {backend.device}"

    def __call__(
        self,
        image: Any,  # noqa: ANN401  # any of the kinds below
        direction: str = "a2b",
        prompt: str | Sequence[str] | None = None,
        strength: float = 1.0,
        seed: int = 0,
        size: int | None = None,
        preprocess: str = "none",
    ) -> Any:  # noqa: ANN401  # the kind that was given
        """Translate one image, or a list of images one after the other.

        Args:
            image: a path; a PIL image; a uint8 array ``(H, W)``, ``(H, W, 3)`` or ``(H, W, 4)``; a float array or
                tensor ``(3, H, W)`` in [-1, 1]; a batch of them with a first axis B, which is translated at once; or a
                list of any of these.  Any H and W.
            direction: "a2b" or "b2a".
            prompt: text that describes the result; for a batch or a list also one text per image.  None takes the one
                that was trained.
            strength: in [0, 1]; 1 follows the input and is deterministic, 0 draws an image from noise.
            seed: of the noise for a strength below 1; every image gets the same noise.
            size: short side to resize to first, pixels; None keeps the image's own, up to a megapixel for images that
                are not floats.
            preprocess: "none", or "canny" or "sketch": lines drawn from the photograph first.

        Returns:
            The translation, of the input's kind, at its size or at the one it was resized to: a PIL image (for a path,
            too), an array or a tensor on the same device; transparency is kept.

        Raises:
            FileNotFoundError: there is no such file.
            TypeError: the image is of another kind.
            ValueError: an argument is out of range, or this model cannot do what it asks for.
        """
        if isinstance(image, list | tuple):
            pairs = zip(image, _one_each(prompt, len(image)), strict=True)
            return [self(one, direction, text, strength, seed, size, preprocess) for one, text in pairs]
        preprocessing = Preprocessing.named(size, preprocess)
        torch = sys.modules.get("torch")  # imported where a tensor is given

        def run(prepared: list[tuple[Array, Array | None]]) -> list[Array]:
            results = self.translate(np.stack([one for one, _ in prepared]), prompt, direction, strength, seed)
            return list(results)

        def run_to_pixels(prepared: list[tuple[Array, Array | None]]) -> list[NDArray[np.uint8]]:
            return [to_pixels(result, alpha) for result, (_, alpha) in zip(run(prepared), prepared, strict=True)]

        if isinstance(image, str | Path):
            return Image.fromarray(run_to_pixels([preprocessing.read(Path(image))])[0])
        if isinstance(image, Image.Image):
            return Image.fromarray(run_to_pixels([preprocessing.from_pil(image)])[0])
        if torch is not None and isinstance(image, torch.Tensor) and image.is_floating_point():
            floats = image.detach().float().cpu().numpy()
            result = self(floats, direction, prompt, strength, seed, size, preprocess)
            return torch.from_numpy(result).to(image.device)
        if isinstance(image, np.ndarray) and image.dtype.kind == "f":
            batch = _batch(image, -3, (3,))
            results = run([preprocessing.from_floats(one) for one in [*batch.astype(np.float32)]])
            return np.stack(results) if image.ndim == 4 else results[0]
        if isinstance(image, np.ndarray) and image.dtype == np.uint8:
            colour = image[..., None].repeat(3, axis=-1) if image.ndim == 2 else image
            pixels = run_to_pixels([preprocessing.from_pixels(one) for one in _batch(colour, -1, (3, 4))])
            return np.stack(pixels) if image.ndim == 4 else pixels[0]
        kind = f"{type(image).__name__}{f' of {image.dtype}' if hasattr(image, 'dtype') else ''}"
        raise TypeError(
            f"Cannot translate {kind}: give a path, a PIL image, a uint8 array (H, W, 3), a float array or tensor "
            "(3, H, W) in [-1, 1], or a list of them."
        )

    def translate(
        self,
        images: Array,
        prompt: str | Sequence[str] | None = None,
        direction: str = "a2b",
        strength: float = 1.0,
        seed: int = 0,
    ) -> Array:
        """Translate a batch of prepared images; see `__call__`.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1].
            prompt: one text, or one per image; None takes the one that was trained.
            direction: "a2b" or "b2a".
            strength: in [0, 1].
            seed: of the noise for a strength below 1.

        Returns:
            ``(B, 3, H, W)`` float32 in [-1, 1].

        Raises:
            ValueError: an argument is out of range or of another shape, or this model cannot do what it asks for.
        """
        if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
            raise ValueError(f"A batch of images has the shape (B, 3, H, W), this one has {images.shape}.")
        check_range(images)
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must lie in [0, 1], got {strength}.")
        texts = self.prompts(prompt, direction)
        if len(texts) not in (1, len(images)):
            raise ValueError(f"{len(texts)} prompts for {len(images)} images: give one, or one per image.")
        padded = pad(images, self.backend.multiple)
        result = self.backend.translate(padded, self.backend.embed(texts), direction, strength, seed)
        return result[..., : images.shape[-2], : images.shape[-1]]

    def prompts(self, prompt: str | Sequence[str] | None, direction: str) -> list[str]:
        """The prompts given, or the one that was trained.

        Raises:
            ValueError: there is no such direction, or no prompt for it.
        """
        known = self.backend.directions
        if direction not in known:
            raise ValueError(f"Unknown direction {direction!r}: this model translates {' and '.join(known)}.")
        if prompt is None:
            if direction not in self.backend.prompts:
                raise ValueError(f"This model names no prompt for {direction}: say what the result shows (prompt=).")
            prompt = self.backend.prompts[direction]
        return [prompt] if isinstance(prompt, str) else list(prompt)


def _batch(image: AnyArray, channel_axis: int, channels: tuple[int, ...]) -> AnyArray:
    """An array of one image or several as an array of several.

    Raises:
        ValueError: it has another shape.
    """
    if image.ndim not in (3, 4) or image.shape[channel_axis] not in channels or 0 in image.shape:
        layout = "(3, H, W) or (B, 3, H, W)" if channel_axis == -3 else "(H, W, 3), (H, W, 4) or (B, H, W, 3)"
        raise ValueError(f"{image.dtype} images have the shape {layout}, this array has {image.shape}.")
    return image if image.ndim == 4 else image[None]


def _one_each(prompt: str | Sequence[str] | None, count: int) -> list[str | None]:
    """A prompt, or None, for each of several images.

    Raises:
        ValueError: there is another number of prompts.
    """
    if prompt is None or isinstance(prompt, str):
        return [prompt] * count
    if len(prompt) != count:
        raise ValueError(f"{len(prompt)} prompts for {count} images: give one, or one per image.")
    return list(prompt)
