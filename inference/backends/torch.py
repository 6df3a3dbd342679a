"""Backend of adapters: the PyTorch generator, merged, in the memory layout and precision that are fastest here."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn

from images.ranges import Array
from inference.backends import Backend, Training, check_precision
from networks import ImageTranslator, load_generator
from networks.checkpoints.adapter import read_adapter
from networks.checkpoints.card import Adapter
from networks.one_step.diffusion import noise_map
from networks.precision import has_bfloat16, is_large
from storage import digest


class TorchBackend(Backend):
    """An adapter on its base; see `Backend`.

    At strength 1 its LoRA is merged in float32, and the weights of convolutions and linear layers are then cast once
    to the precision.  A strength below 1 needs the LoRA unmerged: the generator is loaded a second time for it.

    Args:
        path: what `read_adapter` reads, or what it returned.
        precision: "float32", "bfloat16" or "auto".
        device: see `pick_device`.
        base: overrides the base that the adapter names.

    Raises:
        FileNotFoundError: adapter or base is not there.
        ValueError: they do not fit each other; no such device or precision.
    """

    name = "torch"
    trained_only = False

    def __init__(
        self, path: str | Path | Adapter, precision: str = "auto", device: str = "auto", base: str | None = None
    ) -> None:
        if precision == "int8":
            raise ValueError("The precision int8 is for exported models: adapters run in float32 or bfloat16.")
        check_precision(precision)
        self._device, self._base = pick_device(device), base
        self.device = str(self._device)
        self._adapter = path if isinstance(path, Adapter) else read_adapter(path)
        self._unmerged: ImageTranslator | None = self._load()
        self._merged: ImageTranslator | None = None
        self._prompts = self._unmerged.encode_prompts
        self.base_description = self._unmerged.base_description
        self.base_fingerprint = self._unmerged.base_fingerprint
        self.directions, self.prompts = self._unmerged.directions, self._unmerged.prompts
        self.weights = self._adapter.card.weights or _digest(self._adapter)
        self.training = Training.from_card(self._adapter.card.run.to_json())
        trained = set(self._unmerged.trained_names)  # a released file lacks some of them
        self.trained_parameters = sum(t.numel() for name, t in self._adapter.tensors.items() if name in trained)
        self.multiple = 1  # generators take any size
        self.precision = pick_precision(self._unmerged, self._device) if precision == "auto" else precision
        self._weigh()

    def embed(self, prompts: Sequence[str]) -> Array:
        """See `Backend`."""
        return self._prompts(list(prompts), self._device).cpu().numpy()

    def release(self) -> None:
        """See `Backend`."""
        self._prompts.release()

    def translate(self, images: Array, embedding: Array, direction: str, strength: float = 1.0, seed: int = 0) -> Array:
        """See `Backend`."""
        try:
            return self._translate(images, embedding, direction, strength, seed)
        except torch.OutOfMemoryError as error:
            count, _, height, width = images.shape
            raise MemoryError(
                f"{count} x {width} x {height} pixels do not fit into the memory of {self.device}"
            ) from error

    def _translate(self, images: Array, embedding: Array, direction: str, strength: float, seed: int) -> Array:
        generator = self._at_full_strength() if strength == 1 else self._at_any_strength()
        image, context = (torch.from_numpy(array).to(self._device) for array in (images, embedding))
        image = image.contiguous(memory_format=torch.channels_last)
        noise = r = None
        if strength != 1:
            r = torch.full((len(image),), strength, device=self._device)
        if strength != 1 or generator.reads_noise:
            noise = noise_map(seed, generator.noise_shape(image)).to(self._device)
        with torch.inference_mode(), self._autocast():
            result: Tensor = generator(image, context, direction, r, noise)
        return result.float().cpu().contiguous().numpy()

    def _autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def _load(self) -> ImageTranslator:
        generator = load_generator(self._adapter, self._base).to(self._device)
        return generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs

    def _at_full_strength(self) -> ImageTranslator:
        if self._merged is None:
            generator, self._unmerged = self._unmerged or self._load(), None
            generator.merge(torch.bfloat16 if self.precision == "bfloat16" else torch.float32)
            self._merged = generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self._weigh()
        return self._merged

    def _at_any_strength(self) -> ImageTranslator:
        if self._unmerged is None:
            self._unmerged = self._load()
            self._weigh()
        return self._unmerged

    def _weigh(self) -> None:
        """Count the bytes of what is loaded; weights that both directions share count once."""
        loaded = [one for one in (self._merged, self._unmerged) if one is not None]
        self.weight_bytes = sum(t.nbytes for one in loaded for t in (*one.parameters(), *one.buffers()))


def _digest(adapter: Adapter) -> str:
    """Of an adapter whose card does not name it: a checkpoint, a released file, or one of an earlier version."""
    return digest(
        piece
        for name, tensor in sorted(adapter.tensors.items())
        for piece in (name.encode(), tensor.float().contiguous().numpy().tobytes())
    )


def pick_precision(generator: nn.Module, device: torch.device) -> str:
    """bfloat16 where the device computes in it, but for small networks on a CPU; else float32."""
    small = device.type == "cpu" and not is_large(generator)
    return "bfloat16" if has_bfloat16(device) and not small else "float32"


def pick_device(name: str) -> torch.device:
    """The device to run on; "auto" is the accelerator that torch sees, else the CPU.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(
            f"No device {name!r} here ({reason}). Use cpu, or auto for the accelerator if there is one."
        ) from error
    return device
