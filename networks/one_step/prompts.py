"""Prompts to cross-attention context, embedded once and cached."""

from collections import OrderedDict

import torch
from torch import Tensor

from networks.one_step.bases import Base
from networks.one_step.text_conditioning import Parts

CACHE = 1024  # cached captions; 77 x 1024 floats each at full size = 315 kB


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

    @torch.no_grad()
    def __call__(self, prompts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """Embed prompts, padded to the tokenizer's `model_max_length`.

        Args:
            prompts: B texts; longer ones are cut to the model's length.
            device: device of the text encoder and of the result.

        Returns:
            ``(B, L, D)`` float32.
        """
        missing = [p for p in dict.fromkeys(prompts) if p not in self._cache]
        if missing:
            if self._text is None:
                self._text = self._base.load_text()
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
