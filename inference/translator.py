"""`Translator`: the one path from an image to its translation, for adapters and exported models alike."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from images.ranges import Array, check_range, to_pixels
from images.resizing import resize
from inference.backends import Backend
from inference.backends.exported import MANIFEST, ExportedBackend
from inference.high_resolution import AffineModels, Layout, SmoothedModels, choose_layout, translate_tiles
from inference.processing import Preprocessing, pad

AnyArray = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Prepared:
    """An image between reading and the network.

    Attributes:
        image: ``(3, H, W)`` in [-1, 1], at the result's size.
        alpha: its transparency, ``(1, H, W)`` in [0, 1], or None without any.
        layout: how it is translated.
        network_input: what the network gets, ``(3, h, w)``; tiles are cut from it.
    """

    image: Array
    alpha: Array | None
    layout: Layout
    network_input: Array


class Translator:
    """Translates images with a trained adapter or an exported model.

    A translation has three stages, so that those of several images can overlap: `prepare` and `finish`, which any
    thread may call, and `compute`, the network.  A call does all three.

    Examples:
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
            path: run folder, adapter folder, checkpoint, released .pkl, the folder of an exported model, or
                ``owner/name[@revision]`` of an adapter on the Hugging Face hub.
            precision: "float32", "bfloat16", or "auto": bfloat16 where the hardware has it, but float32 for small
                networks on a CPU.  An exported model has the precision that it was exported with.
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
        resolution: str = "auto",
    ) -> Any:  # noqa: ANN401  # the kind that was given
        """Translate one image, or a list of images one after the other.

        Args:
            image: a path; the content of an image file (bytes); a PIL image; a uint8 array ``(H, W)``, ``(H, W, 3)`` or
                ``(H, W, 4)``; a float array or tensor ``(3, H, W)`` in [-1, 1]; a batch of them with a first axis B,
                which is translated at once; or a list of any of these.  Any H and W.
            direction: "a2b" or "b2a".
            prompt: text that describes the result; for a batch or a list also one text per image.  None takes the one
                that was trained.
            strength: in [0, 1]; 1 follows the input and is deterministic, 0 draws an image from noise.
            seed: of the noise for a strength below 1; every image gets the same noise.
            size: short side to resize to first, pixels; None keeps the image's own.
            preprocess: "none", or "canny" or "sketch": lines drawn from the photograph first.
            resolution: "direct", "lift" or "tiles", see `inference.high_resolution`; "auto" is direct up to the size
                that the adapter was validated at, and above it what its card names.

        Returns:
            The translation, of the input's kind, at its size or at the one it was resized to: a PIL image (for a path
            or a file's content, too), an array or a tensor on the same device; transparency is kept.

        Raises:
            FileNotFoundError: there is no such file.
            TypeError: the image is of another kind.
            ValueError: an argument is out of range, or this model cannot do what it asks for.
        """
        if isinstance(image, list | tuple):
            pairs = zip(image, _one_each(prompt, len(image)), strict=True)
            return [self(one, direction, text, strength, seed, size, preprocess, resolution) for one, text in pairs]
        torch = sys.modules.get("torch")  # imported where a tensor is given
        if torch is not None and isinstance(image, torch.Tensor) and image.is_floating_point():
            floats = image.detach().float().cpu().numpy()
            result = self(floats, direction, prompt, strength, seed, size, preprocess, resolution)
            return torch.from_numpy(result).to(image.device)
        batch = _as_batch(image)
        prepared = [self.prepare(one, size, preprocess, resolution) for one in batch or [image]]
        outputs = self.compute(prepared, prompt, direction, strength, seed)
        results = [self.finish(*pair) for pair in zip(prepared, outputs, strict=True)]
        if isinstance(image, np.ndarray) and image.dtype.kind == "f":
            return np.stack(results) if batch else results[0]
        pixels = [to_pixels(result, one.alpha) for result, one in zip(results, prepared, strict=True)]
        if isinstance(image, np.ndarray):
            return np.stack(pixels) if batch else pixels[0]
        return Image.fromarray(pixels[0])

    def prepare(
        self,
        image: str | Path | bytes | Image.Image | AnyArray,
        size: int | None = None,
        preprocess: str = "none",
        resolution: str = "auto",
    ) -> Prepared:
        """Read or convert one image and make the network's input.

        Args:
            image: a path, a file's content, a PIL image, or an array of one image; see `__call__`.
            size: short side to resize to first, pixels.
            preprocess: "none", "canny" or "sketch".
            resolution: see `__call__`.

        Raises:
            FileNotFoundError: there is no such file.
            TypeError: the image is of another kind.
            ValueError: it cannot be decoded, is too large, or an argument is out of range.
        """
        preprocessing = Preprocessing.named(size, preprocess)
        name: object = "the image"
        if isinstance(image, bytes):
            full, alpha = preprocessing.read(image)
        elif isinstance(image, str | Path):
            name = image
            full, alpha = preprocessing.read(Path(image))
        elif isinstance(image, Image.Image):
            full, alpha = preprocessing.from_pil(image)
        elif isinstance(image, np.ndarray) and image.dtype.kind == "f":
            full, alpha = preprocessing.from_floats(_checked(image, -3, (3,)).astype(np.float32))
        elif isinstance(image, np.ndarray) and image.dtype == np.uint8:
            colour = image[..., None].repeat(3, axis=-1) if image.ndim == 2 else image
            full, alpha = preprocessing.from_pixels(_checked(colour, -1, (3, 4)))
        else:
            kind = f"{type(image).__name__}{f' of {image.dtype}' if hasattr(image, 'dtype') else ''}"
            raise TypeError(
                f"Cannot translate {kind}: give a path, a file's content, a PIL image, a uint8 array (H, W, 3), a "
                "float array or tensor (3, H, W) in [-1, 1], or a list of them."
            )
        layout = self.layout(name, full.shape[1:], size, preprocess, resolution)
        small = resize(full, layout.network_shape) if layout.mode == "lift" else full
        return Prepared(full, alpha, layout, small)

    def layout(
        self,
        image: object,
        shape: tuple[int, ...],
        size: int | None = None,
        preprocess: str = "none",
        resolution: str = "auto",
    ) -> Layout:
        """How an image is translated.

        Args:
            image: its name, for messages.
            shape: its height and width, pixels.
            size: see `__call__`.
            preprocess: likewise.
            resolution: likewise.

        Raises:
            ValueError: there is no such resolution, the image is too large for it, or it cannot work for this input.
        """
        height, width = shape
        draws_lines = preprocess != "none" or self.backend.training.line_drawing != "none"
        return choose_layout(resolution, image, (height, width), size, self.backend.training, draws_lines)

    def compute(
        self,
        prepared: Sequence[Prepared],
        prompt: str | Sequence[str] | None = None,
        direction: str = "a2b",
        strength: float = 1.0,
        seed: int = 0,
        tiles: int = 1,
        before_pass: Callable[[], None] = lambda: None,
    ) -> list[Array]:
        """Run the network; one call at a time.

        Args:
            prepared: images whose layouts have one mode and one network shape, which are translated together.
            prompt: one text, or one per image; None takes the one that was trained.
            direction: "a2b" or "b2a".
            strength: in [0, 1].
            seed: of the noise for a strength below 1.
            tiles: of one image that are translated together.
            before_pass: called before each pass of the network; ends the computation by raising.

        Returns:
            For each image ``(3, h, w)`` in [-1, 1]: of the network's shape, with tiles of the result's.

        Raises:
            ValueError: see `translate`.
        """

        def network(images: Array, texts: str | Sequence[str] | None) -> Array:
            before_pass()
            return self.translate(images, texts, direction, strength, seed)

        if prepared[0].layout.mode != "tiles":
            return [*network(np.stack([one.network_input for one in prepared]), prompt)]
        return [
            translate_tiles(one.image, one.layout.network_shape, tiles, partial(network, texts=text))
            for one, text in zip(prepared, _one_each(prompt, len(prepared)), strict=True)
        ]

    @staticmethod
    def finish(prepared: Prepared, output: Array, smoothed: SmoothedModels | None = None) -> Array:
        """Carry the network's output to the result's resolution.

        Args:
            prepared: what `prepare` returned.
            output: what `compute` returned for it.
            smoothed: of a video, whose frames are finished in order: averages lift's models over time.

        Returns:
            ``(3, H, W)`` in [-1, 1].
        """
        if prepared.layout.mode != "lift":
            return output
        models = AffineModels.fit(prepared.network_input, output)
        if smoothed is not None:
            models = smoothed.add(prepared.network_input, models)
        return models.apply(prepared.image)

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


def _as_batch(image: object) -> list[AnyArray]:
    """The images of an array with a first axis B; empty for what is one image."""
    return [*image] if isinstance(image, np.ndarray) and image.ndim == 4 and len(image) else []


def _checked(image: AnyArray, channel_axis: int, channels: tuple[int, ...]) -> AnyArray:
    """Refuse an array that is no image.

    Raises:
        ValueError: it has another shape.
    """
    if image.ndim != 3 or image.shape[channel_axis] not in channels or 0 in image.shape:
        layout = "(3, H, W) or (B, 3, H, W)" if channel_axis == -3 else "(H, W, 3), (H, W, 4) or (B, H, W, 3)"
        raise ValueError(f"{image.dtype} images have the shape {layout}, this array has {image.shape}.")
    return image


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
