"""Prompts to cross-attention context, embedded once and cached; embeddings that were stored beside an adapter."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from torch import Tensor

from networks.one_step.bases import Base
from networks.one_step.text_conditioning import Parts
from networks.pretrained import FLOATS
from prompt_embeddings import PromptEmbeddings
from storage import digest, shortened

CACHE = 1024  # cached captions; 77 x 1024 floats each at full size = 315 kB
SHARD = "[0-9]" * 5

log = logging.getLogger(__name__)


class PromptEncoder:
    """Tokenizers and text encoders of a base behind a cache.

    Kept out of every module tree on purpose: it never trains, is in no checkpoint, and `release` frees its memory.

    Args:
        base: where tokenizers and text encoders are read from, at the first prompt that is not cached.

    Attributes:
        origin: file whose embeddings were taken, in words for logs; empty where the base's text encoder computes all.
    """

    def __init__(self, base: Base) -> None:
        self.origin = ""
        self._base = base
        self._text: Parts | None = None
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._fingerprint: str | None = None  # of the text encoder, once it is known

    @torch.no_grad()
    def __call__(self, prompts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Embed prompts, padded to the tokenizer's `model_max_length`.

        Args:
            prompts: B texts; longer ones are cut to the model's length.
            device: device of the text encoder and of the result.

        Returns:
            ``(B, L, D)`` float32.

        Raises:
            FileNotFoundError: tokenizer or text encoder is needed and missing.
            ValueError: it cannot work here.
        """
        missing = [p for p in dict.fromkeys(prompts) if p not in self._cache]
        if missing:
            if self._text is None:
                self._text = self._load(missing[0])
            with torch.autocast(torch.device(device).type, enabled=False):
                states = self._base.conditions.encode(self._text, missing, device).cpu()
            self._cache.update(zip(missing, states.unbind(0), strict=True))
        result = torch.stack([self._cache[p] for p in prompts]).to(device)
        while len(self._cache) > CACHE:
            self._cache.popitem(last=False)
        return result

    def release(self) -> None:
        """Drop the text encoder; cached prompts stay, another prompt loads it again."""
        self._text = None

    def take(self, found: PromptEmbeddings, where: str) -> None:
        """Cache embeddings that were read from a file; with a warning, not those of another text encoder.

        Where the base's text encoder is not on this machine, they are taken unchecked.

        Args:
            found: embeddings.
            where: the file, for messages.

        Raises:
            ValueError: their shape is none that the base's UNet takes.
        """
        own = text_fingerprint(self._base)
        if own not in (None, found.text_encoder):
            log.warning(
                f"{where} is not used: its embeddings are of another text encoder ({found.text_encoder}) than that of "
                f"{self._base.description} ({own}), which embeds the prompts anew."
            )
            return
        least, width = self._base.conditions.embedding_shape(1, self._base.unet.config["cross_attention_dim"])
        for value in found.values.values():
            if value.shape[0] < least or value.shape[1] != width:
                raise ValueError(
                    f"{where} does not fit the base {self._base.description}: it holds embeddings {value.shape}, the "
                    f"UNet takes (L, {width})."
                )
        self._cache.update((found.prompts[d], torch.from_numpy(value)) for d, value in found.values.items())
        self._fingerprint = found.text_encoder
        self.origin = f"embeddings of its prompts from {where}"
        if own is None:
            self.origin += ", unchecked because the base's text encoder is not on this machine"

    @torch.no_grad()
    def embedded(self, prompts: Mapping[str, str]) -> PromptEmbeddings | None:
        """Embeddings to store beside an adapter; None where that would need the text encoder to be loaded.

        Args:
            prompts: text by direction.
        """
        missing = [text for text in dict.fromkeys(prompts.values()) if text not in self._cache]
        if not prompts or (missing and self._text is None):
            return None
        self._fingerprint = self._fingerprint or text_fingerprint(self._base)
        if self._fingerprint is None:
            return None
        known = {text: self._cache[text] for text in prompts.values() if text in self._cache}
        if missing and self._text is not None:
            # Not into the cache: what is in it decides which texts are embedded together, and so their last bits.
            device = next(self._text[0][1].parameters()).device
            with torch.autocast(device.type, enabled=False):
                known |= zip(missing, self._base.conditions.encode(self._text, missing, device).cpu(), strict=True)
        return PromptEmbeddings(self._fingerprint, dict(prompts), {d: known[t].numpy() for d, t in prompts.items()})

    def _load(self, prompt: str) -> Parts:
        try:
            return self._base.load_text()
        except (FileNotFoundError, ValueError) as error:
            if not self.origin:
                raise
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"The adapter holds no embedding of the prompt {shortened(prompt)}. {error}") from error


def text_fingerprint(base: Base) -> str | None:
    """Short hash that tells text encoders apart, from their files alone; None where they are not on this machine.

    Twelve hex digits over names, shapes and 16 values of every tensor, rounded to fp16 so that both variants agree; at
    random weights over the configs.  The values are neighbours: a page of the file is read per tensor, no network is
    built, and nothing is downloaded.

    Raises:
        ValueError: a file is damaged.
    """
    pieces: list[bytes] = []
    for _, part, _ in base.conditions.parts:
        folder = _folder(base, part)
        files = [folder / "config.json"] if base.random_init else weight_files(folder)
        if not files or not all(path.is_file() for path in files):
            return None
        try:
            pieces += [path.read_bytes() for path in files] if base.random_init else _samples(files)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"Base {base.name!r}: cannot read its {part}: {shortened(str(error))}.") from error
    return digest([str(base.random_init).encode(), *pieces], digits=12)


def _samples(files: list[Path]) -> list[bytes]:
    """Name, shape and some values of each tensor of some files, in the order of names; integers are left out."""
    samples = {}
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # it is no mapping
                part = file.get_slice(name)
                shape = part.get_shape()
                if part.get_dtype() in FLOATS and shape and 0 not in shape:
                    at = [n // 2 for n in shape]
                    where = (*at[:-1], slice(at[-1], at[-1] + 16))
                    values = part[where]
                    samples[name] = f"{name}{tuple(shape)}".encode() + values.half().numpy().tobytes()
    return [samples[name] for name in sorted(samples)]


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would read, full precision before fp16; none where one is missing."""
    for stem in ("model", "model.fp16"):
        if (whole := folder / f"{stem}.safetensors").is_file():
            return [whole]
        shards = sorted(folder.glob(f"{stem}-{SHARD}-of-{SHARD}.safetensors"))
        if shards and len(shards) == int(shards[0].stem[-5:]):
            return shards
    return []


def _folder(base: Base, part: str) -> Path:
    """Where a part of a base is, or would be: in its folder, or in the cache of the hub."""
    if not Path(base.source).is_dir():
        with suppress(ValueError):  # no hub id
            cached = try_to_load_from_cache(base.source, f"{part}/config.json", revision=base.revision)
            if isinstance(cached, str):
                return Path(cached).parent
    return Path(base.source, part)
