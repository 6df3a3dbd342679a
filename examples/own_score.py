"""A score: the mean brightness of translations."""

from torch import Tensor

from datamodules import ClearFoggy  # noqa: F401  # named by own_score.yaml through this module, which is imported so
from metrics.functions import TranslatedImages
from metrics.scores import Score, register


def brightness(images: TranslatedImages) -> Tensor:
    """Mean of the translations' pixels in [0, 255], ``(B,)``."""
    return images.fake.pixels.float().mean((1, 2, 3))


register(Score("brightness", "brightness", per_image=True), brightness)
