"""The two ways in which published FID scores resize images; scores of one are not comparable with the other's."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor


def clean(image: Tensor, side: int) -> Tensor:
    """Resize as clean-fid does: PIL's bicubic with antialiasing, on floats, not rounded (Parmar et al. 2022).

    Args:
        image: `(B, 3, H, W)` in [-1, 1], of any shape.
        side: pixels.

    Returns:
        `(B, 3, side, side)` in [-1, 1]; within 1e-4 of a grey level of 255 of clean-fid's own.
    """
    # PIL adds up in float64, which Apple's GPUs lack
    wide = (image.cpu() if image.device.type == "mps" else image).double()
    resized = F.interpolate(wide, (side, side), mode="bicubic", antialias=True).clamp(-1, 1)
    return resized.float().to(image.device)


def legacy(image: Tensor, side: int) -> Tensor:
    """Resize as torch-fidelity and the first FID code do: bilinear, not antialiased, aligned like TensorFlow 1.

    Args:
        image: `(B, 3, H, W)` in [-1, 1], of any shape.
        side: pixels.

    Returns:
        `(B, 3, side, side)` in [-1, 1].
    """
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    resized: Tensor = interpolate_bilinear_2d_like_tensorflow1x(image, size=(side, side), align_corners=False)
    return resized


RESIZERS: dict[str, Callable[[Tensor, int], Tensor]] = {"clean": clean, "legacy": legacy}
