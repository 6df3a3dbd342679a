"""Augmentation of training images: resize, crop and flip."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from images.resizing import resize_short_side


class TrainTransform:
    """Resize, crop and flip; one draw for all images of one call, so that pairs stay pairs.

    Args:
        resize: short side after resizing, pixels.  Every image is resized, small ones up.
        crop: side of the square that is cut out, pixels, at most ``resize``.
        flip: mirror left and right half of the time.
        random_crop: cut anywhere; False cuts the centre.
    """

    def __init__(self, resize: int, crop: int, flip: bool, random_crop: bool = True) -> None:
        if not 0 < crop <= resize:
            raise ValueError(f"crop must be between 1 and resize, got crop {crop} and resize {resize}.")
        self.resize, self.crop, self.flip, self.random_crop = resize, crop, flip, random_crop

    def __call__(self, images: Sequence[Tensor], draw: np.random.Generator) -> list[Tensor]:
        """Transform images that belong together.

        Args:
            images: each ``(3, H, W)``, of equal shape once resized.
            draw: the source of every random number.

        Returns:
            Each ``(3, crop, crop)``.

        Raises:
            ValueError: if the images differ in shape once resized.
        """
        resized = [torch.from_numpy(resize_short_side(image, self.resize)) for image in images]
        shapes = {tuple(image.shape[-2:]) for image in resized}
        if len(shapes) > 1:
            raise ValueError(f"Images of a pair must have one shape; resized they have {sorted(shapes)}.")
        height, width = shapes.pop()
        top, left = (height - self.crop) // 2, (width - self.crop) // 2
        if self.random_crop:
            top, left = (int(draw.integers(side - self.crop + 1)) for side in (height, width))
        cropped = [image[:, top : top + self.crop, left : left + self.crop] for image in resized]
        if self.flip and draw.random() < 0.5:
            cropped = [image.flip(-1) for image in cropped]
        return [image.contiguous() for image in cropped]
