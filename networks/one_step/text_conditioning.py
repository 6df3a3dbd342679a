"""Conditioning of a base's UNet beside the latent: prompt embeddings, and for SDXL's kind the image's size.

An embedding is one tensor ``(B, L, D)`` everywhere, whatever the kind; only the kind takes it apart.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

TextEncoder = type[CLIPTextModel] | type[CLIPTextModelWithProjection]
Parts = list[tuple[CLIPTokenizer, nn.Module]]
UNetKwargs = dict[str, Any]
"""Keyword arguments of diffusers' `UNet2DConditionModel` beside latent and timestep."""


class Conditions(Protocol):
    """A kind of conditioning.

    Attributes:
        parts: tokenizer's folder, text encoder's folder and class, of each text encoder.
    """

    parts: tuple[tuple[str, str, TextEncoder], ...]

    def encode(self, parts: Parts, texts: list[str], device: torch.device | str) -> Tensor:
        """B texts => embeddings ``(B, L, D)`` float32 on the device.

        Args:
            parts: (tokenizer, text encoder) of each of `parts`.
            texts: longer ones are cut to the model's length.
            device: where the text encoders run.
        """

    def unet_inputs(self, embedding: Tensor, height: int, width: int) -> UNetKwargs:
        """The UNet's arguments beside latent and timestep.

        Args:
            embedding: ``(B, L, D)``.
            height: of the image, pixels.
            width: likewise.
        """

    def embedding_shape(self, tokens: int, width: int) -> tuple[int, int]:
        """``(L, D)`` for a tokenizer's length and the UNet's cross-attention width."""


class Prompt:
    """Stable Diffusion 1 and 2, SD-Turbo, pocket: the last hidden states of one text encoder."""

    parts: tuple[tuple[str, str, TextEncoder], ...] = (("tokenizer", "text_encoder", CLIPTextModel),)

    def encode(self, parts: Parts, texts: list[str], device: torch.device | str) -> Tensor:
        """See `Conditions`."""
        ((tokenizer, encoder),) = parts
        return encoder.to(device)(_tokens(tokenizer, texts, device)).last_hidden_state.float()

    def unet_inputs(self, embedding: Tensor, height: int, width: int) -> UNetKwargs:
        """See `Conditions`."""
        return {"encoder_hidden_states": embedding}

    def embedding_shape(self, tokens: int, width: int) -> tuple[int, int]:
        """See `Conditions`."""
        return tokens, width


class PromptAndSize:
    """SDXL (Podell et al. 2023, Sec. 2.1 and 2.2): two text encoders, a pooled embedding, the image's size.

    An embedding holds the penultimate hidden states of both encoders side by side, and as its last row the pooled
    embedding of the second, zeros behind it.

    Args:
        pooled: length of the pooled embedding.
    """

    parts: tuple[tuple[str, str, TextEncoder], ...] = (
        ("tokenizer", "text_encoder", CLIPTextModel),
        ("tokenizer_2", "text_encoder_2", CLIPTextModelWithProjection),
    )

    def __init__(self, pooled: int) -> None:
        self.pooled = pooled

    def encode(self, parts: Parts, texts: list[str], device: torch.device | str) -> Tensor:
        """See `Conditions`."""
        found = [
            encoder.to(device)(_tokens(tokenizer, texts, device), output_hidden_states=True)
            for tokenizer, encoder in parts
        ]
        context = torch.cat([output.hidden_states[-2].float() for output in found], dim=-1)
        pooled = found[-1].text_embeds.float()
        return torch.cat([context, F.pad(pooled, (0, context.shape[-1] - self.pooled))[:, None]], dim=1)

    def unet_inputs(self, embedding: Tensor, height: int, width: int) -> UNetKwargs:
        """See `Conditions`; original and target size are the padded image's, the crop starts at its corner."""
        # One tensor per number: torch.export keeps sizes symbolic in `new_full`, and makes constants in `new_tensor`.
        sizes = [embedding.new_full(embedding.shape[:1], side) for side in (height, width, 0, 0, height, width)]
        added = {"text_embeds": embedding[:, -1, : self.pooled], "time_ids": torch.stack(sizes, dim=1)}
        return {"encoder_hidden_states": embedding[:, :-1], "added_cond_kwargs": added}

    def embedding_shape(self, tokens: int, width: int) -> tuple[int, int]:
        """See `Conditions`."""
        return tokens + 1, width


def conditions_of(config: Mapping[str, Any], name: str) -> Conditions:
    """The kind that a UNet's config asks for.

    Args:
        config: of a `UNet2DConditionModel`.
        name: of the base, for the message.

    Raises:
        ValueError: this kind of conditioning is not supported.
    """
    kinds = ("addition_embed_type", "class_embed_type", "encoder_hid_dim_type")
    asked = {key: config[key] for key in kinds if config[key] is not None}
    if not asked:
        return Prompt()
    if asked == {"addition_embed_type": "text_time"}:
        return PromptAndSize(config["projection_class_embeddings_input_dim"] - 6 * config["addition_time_embed_dim"])
    found = ", ".join(f"{key}={value}" for key, value in asked.items())
    raise ValueError(
        f"Base {name!r} cannot work here: its UNet asks for more than prompt and size ({found}). Bases of the kind of "
        "SD 1.x, SD 2.x, SD-Turbo and SDXL-Turbo do."
    )


def _tokens(tokenizer: CLIPTokenizer, texts: list[str], device: torch.device | str) -> Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(device)
