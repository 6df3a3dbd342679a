"""Backends: what computes a translation; one `Backend` each for adapters (torch) and exported models."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from images.ranges import Array
from storage import did_you_mean

PRECISIONS = ("auto", "float32", "bfloat16", "int8")


def check_precision(name: str, known: Sequence[str] = PRECISIONS) -> None:
    """Refuse a precision that is not known.

    Raises:
        ValueError: names those that are.
    """
    if name not in known:
        raise ValueError(f"Unknown precision {name!r}.{did_you_mean(name, known)} Known: {', '.join(known)}.")


@dataclass(frozen=True)
class Training:
    """What an adapter's card tells of its training, as far as translation needs it.

    Attributes:
        data: one line on the training images, or None where it is not known.
        line_drawing: kind of line drawing that its inputs were, or "none".
        size: short side of the images that it was validated on, pixels, or None where it is not known.
        resolution: how images above this size are translated best: "lift", "tiles" or "direct".
        edits: prompts that were trained, where each image's caption was one of a few; else empty.
    """

    data: str | None = None
    line_drawing: str = "none"
    size: int | None = None
    resolution: str = "lift"
    edits: Sequence[str] = ()

    @classmethod
    def from_card(cls, card: Mapping[str, object]) -> "Training":
        """Read the entries of adapter.json; one that is missing or of another type counts as not known."""
        data, preprocessing = card.get("data"), card.get("preprocessing")
        steps = preprocessing if isinstance(preprocessing, Mapping) else {}
        lines, size = str(steps.get("preprocess", "none")), steps.get("eval_size")
        resolution, edits = card.get("resolution"), card.get("edits")
        if resolution not in ("lift", "tiles", "direct"):  # older cards lack it
            resolution = "lift" if lines == "none" else "tiles"
        return cls(
            data if isinstance(data, str) else None,
            lines,
            size if isinstance(size, int) and size > 0 else None,
            str(resolution),
            [text for text in edits if isinstance(text, str)] if isinstance(edits, list) else (),
        )


class Backend(ABC):
    """Base class: computes translations of prepared images.

    Attributes:
        name: "torch", "onnx" or "openvino".
        precision: "float32", "bfloat16" or "int8".
        device: name of the device that it runs on.
        base_description: one line on the weights that the generator starts from.
        base_fingerprint: short hash of them.
        weights: digest of the adapter's weights, or of an exported model's files.
        weight_bytes: bytes of the networks that are loaded now: of their parameters, or of an exported model's files;
            without text encoders.
        training: what the adapter's card tells of its training.
        multiple: sides of images must be multiples of it, pixels.
        directions: the directions that it translates in.
        prompts: prompt that was trained, by direction.
        trained_only: whether it translates by these prompts and at strength 1 only.
    """

    name: str
    precision: str
    device: str
    base_description: str
    base_fingerprint: str
    weights: str
    weight_bytes: int
    training: Training
    multiple: int
    directions: Sequence[str]
    prompts: Mapping[str, str]
    trained_only: bool

    @property
    def identity(self) -> str:
        """What tells its results from those of other backends: weights, base, and what computes at which precision."""
        return " ".join((self.weights, self.base_fingerprint, self.name, self.precision))

    @abstractmethod
    def embed(self, prompts: Sequence[str]) -> Array:
        """Prompts => embeddings ``(n, L, D)``.

        Raises:
            FileNotFoundError: a prompt needs the base's text encoder, which is not on this machine.
            ValueError: names a prompt that it cannot embed.
        """

    @abstractmethod
    def release(self) -> None:
        """Free what `embed` needs beside its results, which stay cached: at full size a text encoder of 1.3 GB."""

    @abstractmethod
    def translate(self, images: Array, embedding: Array, direction: str, strength: float = 1.0, seed: int = 0) -> Array:
        """Translate a batch.

        Args:
            images: ``(B, 3, H, W)`` in [-1, 1]; H and W are multiples of `multiple`.
            embedding: ``(1, L, D)`` or ``(B, L, D)``.
            direction: one of `directions`.
            strength: in [0, 1]; 1 is deterministic.
            seed: of the noise for a strength below 1.

        Returns:
            ``(B, 3, H, W)`` float32 in [-1, 1].

        Raises:
            ValueError: it cannot translate at this strength.
            MemoryError: the batch does not fit into the device's memory.
        """
