"""Warping error: how much a video flickers beyond the motion of what it shows."""

import torch
from torch import Tensor
from torch.nn import functional as F


def warping_error(frame: Tensor, previous: Tensor, flow: Tensor, visible: Tensor) -> Tensor:
    """Squared difference of a frame and the one before it, moved by the optical flow (Lai et al. 2018, Sec. 4.1).

    Its root, over the frames' mean, is in levels of 255; ground truth scores above 0 too, by resampling and by light
    that depends on the view.

    Args:
        frame: ``(3, H, W)`` uint8.
        previous: the frame before it, likewise.
        flow: where each pixel was in the frame before, relative to its place now, ``(H, W, 2)``: columns and rows,
            pixels.
        visible: pixels to compare, ``(H, W)`` bool.

    Returns:
        Mean over the visible pixels and channels, in squared levels of 255; 0 where nothing is visible.

    Raises:
        ValueError: if shapes differ.
    """
    height, width = frame.shape[-2:]
    if frame.shape != previous.shape or flow.shape != (height, width, 2) or visible.shape != (height, width):
        shapes = [tuple(tensor.shape) for tensor in (frame, previous, flow, visible)]
        raise ValueError(f"The warping error needs frames, flow and mask of one size, got {shapes}.")
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    place = torch.stack([columns, rows], dim=-1) + flow
    grid = (place * 2 + 1) / torch.tensor([width, height]) - 1
    warped = F.grid_sample(previous[None].float(), grid[None], "bilinear", "border", align_corners=False)[0]
    error = (frame.float() - warped).square().mean(dim=0)
    return (error * visible).sum() / visible.sum().clamp(min=1)
