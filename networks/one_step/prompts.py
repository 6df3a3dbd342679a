"""Prompts to cross-attention context, embedded once and cached; embeddings that were stored beside an adapter."""

import logging
from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor

from networks.one_step.bases import Base
from networks.one_step.text_conditioning import Parts
from networks.one_step.text_fingerprint import text_fingerprint
from prompt_embeddings import PromptEmbeddings
from storage import shortened

AT_ONCE = 32  # texts that a text encoder reads together
TOLD = 5  # texts that are named for being too long
CACHE = 1024  # cached captions; 77 x 1024 floats each at full size = 315 kB

log = logging.getLogger(__name__)


class PromptEncoder:
    """Tokenizers and text encoders of a base behind a cache.

    Kept out of every module tree on purpose: it never trains, is in no checkpoint, and `release` frees its memory.

    Args:
        base: where tokenizers and text encoders are read from, at the first prompt that is not cached.
    """

    def __init__(self, base: Base) -> None:
        self._base = base
        self._text: Parts | None = None
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._cut: set[str] = set()  # texts that were named for being too long
        self._fingerprint: str | None = None  # of the text encoder, once it is known

    @torch.no_grad()
    def __call__(self, prompts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Embed prompts, padded to the tokenizer's `model_max_length`.

        Args:
            prompts: B texts; longer ones are cut to the model's length, and a warning names the first of them.
            device: device of the text encoder and of the result.

        Returns:
            ``(B, L, D)`` float32.

        Raises:
            FileNotFoundError: tokenizer or text encoder is needed and missing.
            ValueError: it cannot work here.
        """
        missing = [p for p in dict.fromkeys(prompts) if p not in self._cache]
        for k in range(0, len(missing), AT_ONCE):
            self._text = self._text or self._load(missing[0])
            some = missing[k : k + AT_ONCE]
            self._tell_what_is_cut(some, self._text)
            with torch.autocast(torch.device(device).type, enabled=False):
                states = self._base.conditions.encode(self._text, some, device).cpu()
            self._cache.update(zip(some, states.unbind(0), strict=True))
        result = torch.stack([self._cache[p] for p in prompts]).to(device)
        while len(self._cache) > CACHE:
            self._cache.popitem(last=False)
        return result

    def release(self) -> None:
        """Drop the text encoder; cached prompts stay, another prompt loads it again."""
        self._text = None

    def take(self, found: PromptEmbeddings, where: str) -> None:
        """Cache embeddings that were read from a file, but for those of another text encoder than the base's.

        A warning says so; and where the base's text encoder is not on this machine, that they are taken unchecked.

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
        if own is None:
            log.warning(
                f"Embeddings of the trained prompts come from {where}; the text encoder of {self._base.description}, "
                "which would confirm them, is not on this machine."
            )
        self._cache.update((found.prompts[d], torch.from_numpy(value)) for d, value in found.values.items())
        self._fingerprint = found.text_encoder

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

    def _tell_what_is_cut(self, texts: list[str], parts: Parts) -> None:
        tokenizer = parts[0][0]  # a second one has the same vocabulary
        for text in texts:
            if len(self._cut) == TOLD or text in self._cut:
                continue
            tokens = tokenizer(text, truncation=True, return_overflowing_tokens=True, return_offsets_mapping=True)
            if len(tokens.input_ids) == 1:
                continue
            self._cut.add(text)
            end = tokens.offset_mapping[0][-2][1]  # the last one is the end token
            log.warning(
                f"The prompt {shortened(text)} is longer than the {tokenizer.model_max_length} tokens that are read: "
                f"{shortened(text[end:].lstrip())} has no effect."
                + (" Further prompts that are too long are not named." if len(self._cut) == TOLD else "")
            )

    def _load(self, prompt: str) -> Parts:
        try:
            return self._base.load_text()
        except (FileNotFoundError, ValueError) as error:
            if self._fingerprint is None:  # no embeddings were taken
                raise
            kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
            raise kind(f"There is no stored embedding of the prompt {shortened(prompt)}. {error}") from error
