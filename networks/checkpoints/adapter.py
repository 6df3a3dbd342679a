"""Adapters on disk: trained tensors (safetensors), the card that rebuilds the generator (adapter.json), and prompts.

Two files cannot be replaced at one moment, so the tensors' file holds a copy of its card, and both name the tensors by
a digest.  adapter.json, which later gets scores and may be edited, counts while it names the tensors that are there;
else writing was interrupted between the two files, or goes on right now, and the copy counts.

prompts.safetensors holds embeddings of the trained prompts, so that translating with those needs no text encoder.  They
go by text and text encoder, which training changes neither of: the file fits any state of a run, and one of other
prompts or of another base is no harm.
"""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from adapter_hub import fetch, hub_name
from networks.checkpoints.card import CARD_BYTES, Adapter, AdapterCard, RunFacts
from networks.checkpoints.pickles import read_pickle
from networks.checkpoints.released import read_released
from networks.checkpoints.weights import check_fit, check_weights
from networks.one_step.bases import may_fetch
from networks.one_step.lora import trainable_names
from networks.one_step.prompts import PromptEncoder
from packaged_adapters import packaged_adapter
from prompt_embeddings import PROMPTS, PromptEmbeddings
from storage import atomic_write, digest, parse_json, read_json, shortened

if TYPE_CHECKING:
    from networks.contract import ImageTranslator

WEIGHTS, CARD = "adapter.safetensors", "adapter.json"
NO_FACTS = RunFacts()


def trained_state(module: nn.Module) -> dict[str, Tensor]:
    """The part of a state dict that a checkpoint holds: trainable tensors and all buffers (spectral norm, counters).

    Frozen bases are rebuilt from their own files, never saved; feature networks are in no state dict at all.
    """
    # By recorded names, since the parameters of a generator loaded for translation are frozen.
    trainable = set(getattr(module, "trained_names", None) or trainable_names(module))
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return {name: tensor for name, tensor in module.state_dict().items() if name in trainable or name not in parameters}


def check_trained(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Check that saved tensors are those that a module trains; the module may be on the meta device.

    Raises:
        ValueError: names, shapes or kinds of numbers differ; the message gives the first difference and the usual
            reason.
    """
    reason = "Other LoRA targets, ranks, gates, skips, directions or discriminators were trained, or another base."
    check_fit(tensors, trained_state(module), where, "this model", reason)


def load_trained(module: nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy saved tensors into a module whose set of names and shapes must be exactly the same.

    Raises:
        ValueError: see `check_trained`.
    """
    check_trained(module, tensors, where)
    state = trained_state(module)
    with torch.no_grad():
        for name, tensor in tensors.items():
            state[name].copy_(tensor)


def save_adapter(generator: "ImageTranslator", folder: str | Path, run: RunFacts = NO_FACTS) -> Path:
    """Write ``adapter.safetensors`` and ``adapter.json``; a reader at any moment gets the old state or the new one.

    Also ``prompts.safetensors`` where the prompts' embeddings are at hand, as they are in training.

    Args:
        generator: trained, its LoRA not merged.
        folder: made if missing.
        run: the training run's entries in the card.

    Returns:
        The folder.

    Raises:
        ValueError: its LoRA is merged, so that there is no adapter any more.
    """
    generator.check_unmerged()
    tensors = {k: v.detach().cpu().contiguous() for k, v in trained_state(generator).items()}
    encoder = generator.encode_prompts
    prompts = encoder.embedded(generator.prompts) if isinstance(encoder, PromptEncoder) else None
    return write_adapter(folder, tensors, AdapterCard.of(generator, run), prompts)


def write_adapter(
    folder: str | Path, tensors: Mapping[str, Tensor], card: AdapterCard, prompts: PromptEmbeddings | None
) -> Path:
    """Write an adapter's files; see `save_adapter`.

    Args:
        folder: made if missing.
        tensors: trained tensors by name, contiguous on the CPU.
        card: of these; the digest in it is replaced.
        prompts: embeddings of the trained prompts, if they are at hand.

    Returns:
        The folder.
    """
    folder, tensors = Path(folder), dict(tensors)
    card = replace(card, weights=digest([save(tensors)]))
    entries = {"weights": str(card.weights), "card": json.dumps(card.to_json())}
    with ExitStack() as files:
        card_part, weights_part = (files.enter_context(atomic_write(folder / name)) for name in (CARD, WEIGHTS))
        weights_part.write_bytes(save(tensors, entries))
        card_part.write_text(_card_text(card))
        if prompts is not None:
            files.enter_context(atomic_write(folder / PROMPTS)).write_bytes(prompts.to_bytes())
    return folder


def write_card(folder: Path, card: AdapterCard) -> None:
    """Replace ``adapter.json`` by another card of the tensors that are there, such as one with scores."""
    entries, _ = _read_weights(folder / WEIGHTS)
    with atomic_write(folder / CARD) as part:
        part.write_text(_card_text(replace(card, weights=entries.get("weights"))))


def read_adapter(path: str | Path) -> Adapter:
    """Read a run folder, an adapter folder, a checkpoint of ours (.ckpt) or a released file (.pkl).

    Nothing in the file is run: pickles may hold tensors, numbers, strings, lists and dicts only.  An adapter on the hub
    (``owner/name[@revision]``, where there is no such path) is fetched first, unless a file of others names it;
    ``pocket:NAME`` comes with the package.

    Raises:
        FileNotFoundError: nothing of the kind is there.
        ValueError: the file is none of ours, is damaged or an unsafe pickle, or holds weights that no training writes.
    """
    name = hub_name(path)
    path = (packaged_adapter(path) or Path(path)) if name is None else fetch(name, may_fetch())
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
        return read_released(path)
    content = read_checkpoint(path)
    prefix = "generator."
    tensors = {k.removeprefix(prefix): v for k, v in content["state_dict"].items() if k.startswith(prefix)}
    check_weights(tensors, str(path))
    return Adapter(tensors, AdapterCard.from_json(content["adapter"], str(path)), str(path))


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a training checkpoint of ours without running anything from it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a checkpoint written by this project, is an unsafe pickle, or holds NaN or infinity.
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
    state = content["state_dict"]
    pairs = state.items() if isinstance(state, dict) else [(None, None)]
    if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in pairs):
        raise ValueError(f"{path} is damaged: its state_dict must hold tensors by name, got {shortened(state)}.")
    # Counters in buffers are integers.
    check_weights({name: t for name, t in state.items() if t.is_floating_point()}, str(path))
    content["adapter"] = _plain(content["adapter"], path)
    return content


def _plain(card: object, path: Path) -> dict[str, Any]:
    """A card as adapter.json would hold it: a pickle may hold values that JSON lacks."""
    try:
        text = json.dumps(card)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: its adapter card holds what JSON lacks ({error}).") from error
    return parse_json(text, f"The adapter card in {path}", CARD_BYTES)


def _read_folder(folder: Path) -> Adapter:
    card = AdapterCard.from_json(read_json(folder / CARD, CARD_BYTES), str(folder / CARD))
    try:
        entries, tensors = _read_weights(folder / WEIGHTS)
    except (SafetensorError, OSError, KeyError, MemoryError) as error:  # KeyError: a type of number that torch lacks
        reason = shortened(str(error)) if str(error) else "it is larger than the memory"
        raise ValueError(f"The adapter in {folder} is damaged: {reason}.") from error
    if "card" in entries and card.weights != entries.get("weights"):
        copy = parse_json(entries["card"], str(folder / WEIGHTS), CARD_BYTES)
        card = AdapterCard.from_json(copy, str(folder / WEIGHTS))
    check_weights(tensors, str(folder / WEIGHTS))
    return Adapter(tensors, card, str(folder), prompts=_read_prompts(folder / PROMPTS))


def _read_prompts(path: Path) -> PromptEmbeddings | None:
    try:
        return PromptEmbeddings.read(path)
    except FileNotFoundError:  # of an earlier version
        return None
    except ValueError as error:
        raise ValueError(f"{error} Remove it: the base's text encoder then embeds the prompts.") from error


def _read_weights(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header's own entries, none in files of earlier versions, and the tensors, from one reading of the file.

    safetensors opens a file twice, for the header and for the tensors, and it may be replaced in between.
    """
    content = path.read_bytes()
    tensors = load(content)  # checks the header
    length = int.from_bytes(content[:8], "little")  # of the header, which is JSON
    return json.loads(content[8 : 8 + length]).get("__metadata__") or {}, tensors


def _card_text(card: AdapterCard) -> str:
    return json.dumps(card.to_json(), indent=2) + "\n"
