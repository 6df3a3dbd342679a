"""Adapters on disk: what was trained (safetensors) and what rebuilds it (a small JSON)."""

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from networks.checkpoints.released import read_pickle, read_released
from networks.one_step.lora import trainable_names
from storage import atomic_write

FORMAT = 1
WEIGHTS, CARD = "adapter.safetensors", "adapter.json"


@dataclass
class Adapter:
    """A trained generator without its base.

    Attributes:
        tensors: every trained tensor by its name in the generator.
        card: base and its fingerprint, settings, prompts, preprocessing, versions: see `save_adapter`.
        path: where it was read.
    """

    tensors: dict[str, Tensor]
    card: dict[str, Any]
    path: str
    # Released unpaired files hold conv_in as a LoRA, which needs the base's own weight to become a full one.
    conv_in_delta: Tensor | None = field(default=None)

    @property
    def settings(self) -> dict[str, Any]:
        """Constructor arguments of the generator that fits."""
        return self.card["settings"]


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """Trainable tensors, and the buffers of what trains (spectral norm's vectors, counters): what a checkpoint holds.

    Frozen bases are rebuilt from their own files, never saved; feature networks are in no state dict at all.
    """
    # A generator knows by construction what trains: one loaded for translation is frozen.
    trainable = set(getattr(module, "trained_names", None) or trainable_names(module))
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return {name: tensor for name, tensor in module.state_dict().items() if name in trainable or name not in parameters}


def load_trained(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy saved tensors into a module whose set of names and shapes must be exactly the same.

    Raises:
        ValueError: names or shapes differ; the message gives the first differences and the usual reason.
    """
    state = trained_state(module)
    missing, unexpected = sorted(state.keys() - tensors.keys()), sorted(tensors.keys() - state.keys())
    if missing or unexpected:
        raise ValueError(
            f"{where} does not fit this model: {len(missing)} tensors missing{_first(missing)}, "
            f"{len(unexpected)} unknown"
            f"{_first(unexpected)}. Other LoRA targets, skips, directions or discriminators were trained."
        )
    wrong = [n for n, t in tensors.items() if t.shape != state[n].shape]
    if wrong:
        name = min(wrong)
        raise ValueError(
            f"{where} does not fit this model: {len(wrong)} tensors of another shape, first {name} "
            f"{tuple(tensors[name].shape)} where {tuple(state[name].shape)} is wanted. "
            "Another LoRA rank or base was trained."
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def save_adapter(generator: nn.Module, folder: str | Path, card: Mapping[str, Any]) -> Path:
    """Write ``adapter.safetensors`` and ``adapter.json``; each appears whole or not at all.

    Args:
        generator: an `ImageTranslator`.
        folder: made if missing.
        card: what only the caller knows: task, experiment, preprocessing, images_seen ...

    Returns:
        The folder.

    Raises:
        ValueError: its LoRA is merged, so that there is no adapter any more.
    """
    if getattr(generator, "merged", False):
        raise ValueError("This generator's LoRA is merged into its base and cannot be saved: load it again, unmerged.")
    folder = Path(folder)
    tensors = {k: v.detach().cpu().contiguous() for k, v in trained_state(generator).items()}
    with atomic_write(folder / CARD) as card_part, atomic_write(folder / WEIGHTS) as weights_part:
        save_file(tensors, weights_part)
        card_part.write_text(json.dumps(adapter_card(generator, card), indent=2) + "\n")
    return folder


def adapter_card(generator: Any, card: Mapping[str, Any]) -> dict[str, Any]:
    """What ``adapter.json`` holds; plain JSON types only."""
    packages = ("torch", "diffusers", "peft", "transformers", "safetensors")
    return {
        "format": FORMAT,
        "base": generator.base_name,
        "base_random_init": generator.base_random_init,
        "base_fingerprint": generator.base_fingerprint,
        "base_description": generator.base_description,
        "settings": generator.settings,
        "prompts": dict(generator.prompts),
        **card,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
    }


def read_adapter(path: str | Path) -> Adapter:
    """Read a run folder, an adapter folder, a checkpoint of ours (.ckpt) or a released file (.pkl).

    Nothing in the file is run: pickles may hold tensors, numbers, strings, lists and dicts only.

    Raises:
        FileNotFoundError: nothing of the kind is there.
        ValueError: the file is none of ours, is damaged, or is an unsafe pickle.
    """
    path = Path(path)
    if path.is_dir():
        for folder in (path / "adapter", path):
            if (folder / CARD).is_file() and (folder / WEIGHTS).is_file():
                return _read_folder(folder)
        raise FileNotFoundError(
            f"No adapter in {path}: looked for {CARD} and {WEIGHTS} there and in {path / 'adapter'}. "
            "Give a run folder (runs/EXP/BASE/version_N) that has finished a validation, "
            "an adapter folder, a .ckpt or a .pkl."
        )
    if not path.is_file():
        raise FileNotFoundError(
            f"No checkpoint at {path}: give a run folder, an adapter folder, a .ckpt or a released .pkl."
        )
    if path.suffix == ".pkl":
        return Adapter(path=str(path), **read_released(path))
    content = read_checkpoint(path)
    prefix = "generator."
    tensors = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    return Adapter(tensors, content["adapter"], str(path))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a training checkpoint of ours without running anything from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint written by this project, or an unsafe pickle.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"No checkpoint at {path}: give the last.ckpt or best-*.ckpt of a run's checkpoints/ folder."
        )
    content = read_pickle(path)
    if not isinstance(content, dict) or "adapter" not in content or "state_dict" not in content:
        raise ValueError(
            f"{path} is not a checkpoint of this project: it has no adapter card. "
            "Give a run's last.ckpt or best-*.ckpt."
        )
    return content


def _read_folder(folder: Path) -> Adapter:
    try:
        card = json.loads((folder / CARD).read_text())
        tensors = load_file(folder / WEIGHTS)
    except (json.JSONDecodeError, SafetensorError, OSError) as error:
        raise ValueError(f"The adapter in {folder} is damaged: {str(error).splitlines()[0][:160]}.") from error
    if card.get("format") != FORMAT:
        raise ValueError(f"{folder / CARD} has format {card.get('format')!r}; this version reads format {FORMAT}.")
    return Adapter(tensors, card, str(folder))


def _first(names: list[str]) -> str:
    return f" (first {names[0]})" if names else ""
