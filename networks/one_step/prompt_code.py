"""The prompt as a few numbers, which gate the ranks of the autoencoder's LoRA."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SMALLEST = 1e-4  # standard deviation of an embedding's entry below which training prompts do not differ in it


class PromptCode(nn.Module):
    """Prompt embeddings to codes: the mean over tokens, standardised over the training prompts, projected to K numbers.

    The paper gives each direction of translation autoencoder adapters of its own.  One adapter for many edits has one
    autoencoder and only the prompt to tell them apart: its code weights the ranks of each of the autoencoder's LoRA
    layers.

    Codes are zero, and every gate is 1, until `standardise` has seen prompts that differ.

    Args:
        width: D of the embeddings.
        channels: K.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.zeros(width))
        # A parameter and no layer: merging casts layers to bfloat16.
        self.projection = nn.Parameter(torch.randn(channels, width) / width**0.5)

    @torch.no_grad()
    def standardise(self, embeddings: Tensor) -> None:
        """Take mean and standard deviation over the training prompts.

        An adapter that is trained further keeps its own: its projection was trained with them.

        Args:
            embeddings: ``(N, L, D)`` of N different prompts.
        """
        if self.scale.any():
            return
        pooled = embeddings.cpu().double().mean(dim=1)  # MPS has no double
        deviation, mean = torch.std_mean(pooled, dim=0, correction=0)
        self.mean.copy_(mean)
        self.scale.copy_(torch.where(deviation > SMALLEST, 1 / deviation, 0))

    def forward(self, embeddings: Tensor) -> Tensor:
        """``(B, L, D)`` -> codes ``(B, K)`` in (-1, 1): prompts unlike those of training have no larger ones."""
        with torch.autocast(embeddings.device.type, enabled=False):
            standard = (embeddings.float().mean(dim=1) - self.mean) * self.scale
            return F.linear(standard, self.projection).tanh()
