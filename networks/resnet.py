"""Baseline without a pretrained base: residual networks (ResNet), trained from scratch, one per direction.

With the losses of experiments/base/resnet.yaml it is CycleGAN (Zhu et al. 2017, Appendix 7.2), with those of
resnet.paired.yaml pix2pix (Isola et al. 2017).
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.checkpoints.adapter import read_adapter
from networks.checkpoints.settings import Direction, ResnetSettings
from networks.contract import ImageTranslator
from networks.one_step.lora import trainable_names

FACTOR = 4  # two layers of stride 2


class NoWords:
    """Prompt encoder of generators that read no prompts: every embedding is empty."""

    def __call__(self, prompts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """B texts => ``(B, 0, 0)``."""
        return torch.empty(len(prompts), 0, 0, device=device)

    def release(self) -> None:
        """Do nothing: there is no encoder to free."""


class ResnetGenerator(ImageTranslator):
    """``c7s1-w, d2w, d4w, R4w x blocks, u2w, uw, c7s1-3`` per direction (Johnson et al. 2016; Zhu et al. 2017).

    Reflection padding and instance norm throughout; no prompts, no noise, nothing pretrained.

    Args:
        directions: "a2b" alone (paired) or with "b2a" (unpaired).
        width: channels at full resolution, 64 in the papers.
        blocks: residual blocks; the papers take 6 at 128 px and 9 at 256 px.
        init: start from a run, an adapter or a checkpoint of the same shape.

    Raises:
        ValueError: a setting is invalid, or `init` has another shape or is no ResNet.
        FileNotFoundError: `init` is not there.
    """

    settings: ResnetSettings
    base_name = "resnet"
    base_fingerprint = "resnet"
    base_description = "resnet (plain, from scratch: nothing pretrained, prompts are not read)"

    def __init__(
        self,
        directions: Sequence[Direction] = ("a2b", "b2a"),
        width: int = 64,
        blocks: int = 6,
        init: str | None = None,
    ) -> None:
        super().__init__()
        self.settings = ResnetSettings(directions=tuple(directions), width=width, blocks=blocks)
        self.prompts: dict[str, str] = {}
        self.encode_prompts = NoWords()
        self.networks = nn.ModuleDict({direction: _network(width, blocks) for direction in directions})
        self.trained_names = trainable_names(self)
        if init is not None:
            self.load_adapter(read_adapter(init))

    @property
    def directions(self) -> list[str]:
        """The directions that this generator translates in."""
        return list(self.networks)

    def translate_together(
        self,
        images: Mapping[str, Tensor],
        embeddings: Mapping[str, Tensor],
        strength: Tensor | None = None,
        noise: Tensor | None = None,
        gamma: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Translate each direction's images by its own network.

        Args:
            images: by direction, ``(B, 3, H, W)`` in [-1, 1], any H and W.
            embeddings: not read.
            strength: must be None.
            noise: not read.
            gamma: not read.

        Returns:
            By direction, ``(B, 3, H, W)`` float32 in [-1, 1].

        Raises:
            ValueError: an unknown direction, or a strength.
        """
        self.check_direction(images)
        if strength is not None:
            raise ValueError(
                "A ResNet takes no noise: leave strength at 1, and train with data.init_args.stochastic=false."
            )
        return {direction: self._translate(image, direction) for direction, image in images.items()}

    def noise_shape(self, image: Tensor) -> tuple[int, ...]:
        """Shape of an empty noise map."""
        return 1, 0, 0, 0

    def _translate(self, image: Tensor, direction: str) -> Tensor:
        height, width = image.shape[-2:]
        # The residual blocks reflect one pixel, so their maps need two: eight at full resolution.
        down, right = (max(-side % FACTOR, 2 * FACTOR - side) for side in (height, width))
        if down or right:
            # Reflection needs a side longer than the pad.
            mode = "reflect" if down < height and right < width else "replicate"
            image = F.pad(image, (0, right, 0, down), mode=mode)
        return self.networks[direction](image)[..., :height, :width].float()


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added (Johnson et al. 2016, supplement)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_layer(nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"), channels),
            nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """``(B, C, h, w)`` to the same shape."""
        return hidden + self.body(hidden)


def _layer(convolution: nn.Module, channels: int) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(channels), nn.ReLU(inplace=True)]


def _network(width: int, blocks: int) -> nn.Sequential:
    network = nn.Sequential(
        *_layer(nn.Conv2d(3, width, 7, padding=3, padding_mode="reflect"), width),
        *_layer(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), 2 * width),
        *_layer(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1), 4 * width),
        *(ResidualBlock(4 * width) for _ in range(blocks)),
        *_layer(nn.ConvTranspose2d(4 * width, 2 * width, 3, stride=2, padding=1, output_padding=1), 2 * width),
        *_layer(nn.ConvTranspose2d(2 * width, width, 3, stride=2, padding=1, output_padding=1), width),
        nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect"),
        nn.Tanh(),
    )
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            # Zhu et al. 2017, Appendix 7.1: weights from N(0, 0.02).
            nn.init.normal_(layer.weight, 0.0, 0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network
