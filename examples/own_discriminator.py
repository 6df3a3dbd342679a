"""A discriminator: one small convolutional network on whole images."""

from torch import Tensor, nn


class SmallDiscriminator(nn.Module):
    """Tells real images from translated ones.

    Args:
        width: channels of its hidden layer.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(width, 1, 4))

    def forward(self, image: Tensor, seeds: Tensor | None = None) -> list[Tensor]:
        """Images ``(B, 3, H, W)`` in [-1, 1] => logits, higher for real images, in any shape that begins with B."""
        return [self.layers(image)]
