"""A graph of pixels around a graph of images, for a browser's canvas: all in ONNX operators.

They do what `images.ranges`, `images.resizing`, `inference.processing.pad` and lift of `inference.high_resolution` do
in numpy and cv2, which a page does not have; a test holds both within 1/255.
"""

# The functions below are compiled to ONNX, not run: names of sizes are no names of Python.
# ruff: noqa: F821
# mypy: ignore-errors

import numpy as np
from onnx.numpy_helper import from_array
from onnxscript import FLOAT, INT64, UINT8, script
from onnxscript import opset20 as op  # `exporting.conversion.OPSET`

from inference.high_resolution import EPSILON, RADIUS

WINDOW = 2 * RADIUS + 1
RIDGE = from_array(EPSILON * np.eye(3)[..., None, None], "ridge")


@script(default_opset=op)
def before(
    pixels: UINT8["height", "width", 4], size: INT64[1], multiple: INT64[1]
) -> tuple[
    FLOAT[1, 3, "height", "width"],
    FLOAT[1, 3, "h", "w"],
    FLOAT[1, 3, "padded_h", "padded_w"],
    UINT8["height", "width", 1],
]:
    """Pixels => the image over white; the network's image; this one padded by reflection to multiples; opacity."""
    rgba = op.Cast(pixels, to=1)
    opacity = rgba[:, :, 3:4] / 255.0
    colour = (rgba[:, :, 0:3] / 127.5 - 1.0) * opacity + (1.0 - opacity)
    full = op.Unsqueeze(op.Transpose(colour, perm=[2, 0, 1]), [0])
    # As `images.resizing.resized_shape`; an image up to the size keeps its own, and Resize its values.
    shape = op.Shape(pixels, start=0, end=2)
    short = op.ReduceMin(shape)
    least = op.Min(short, size)
    exact = op.Cast(shape, to=11) * op.Cast(least, to=11) / op.Cast(short, to=11)
    wanted = op.Max(op.Cast(op.Round(exact), to=7), least)
    sizes = op.Concat([1, 3], wanted, axis=0)
    resized = op.Resize(full, None, None, sizes, mode="cubic", cubic_coeff_a=-0.5, antialias=1, exclude_outside=1)
    small = op.Clip(resized, -1.0, 1.0)
    more = (wanted + multiple - 1) / multiple * multiple - wanted
    pads = op.Concat([0, 0, 0, 0, 0, 0], more, axis=0)
    if op.ReduceMin(op.Cast(more < wanted, to=7), keepdims=0) == 1:
        padded = op.Pad(small, pads, mode="reflect")
    else:
        padded = op.Pad(small, pads, mode="edge")
    return full, small, padded, pixels[:, :, 3:4]


@script(default_opset=op)
def _mirrored(side: INT64) -> INT64["n"]:
    """Places of the pixels of a side and, beyond both ends, of those mirrored: 1 0 | 0 1 2 ..."""
    place = op.Range(-RADIUS, side + RADIUS, 1)
    inside = op.Max(place, -1 - place)
    return op.Min(inside, 2 * side - 1 - inside)


@script(default_opset=op)
def _window_mean(maps: FLOAT["n", "c", "h", "w"]) -> FLOAT["n", "c", "h", "w"]:
    """Means over square windows, as in `inference.high_resolution`."""
    rows = op.Gather(maps, _mirrored(op.Squeeze(op.Shape(maps, start=2, end=3))), axis=2)
    more = op.Gather(rows, _mirrored(op.Squeeze(op.Shape(maps, start=3, end=4))), axis=3)
    return op.AveragePool(more, kernel_shape=[WINDOW, WINDOW])


@script(default_opset=op)
def _changed(full: FLOAT[1, 3, "height", "width"], model: FLOAT[1, 4, "h", "w"]) -> FLOAT[1, 1, "height", "width"]:
    """One channel of the change at full resolution."""
    sizes = op.Concat([1, 4], op.Shape(full, start=2, end=4), axis=0)
    wide = op.Resize(model, None, None, sizes, mode="linear")
    return op.ReduceSum(wide[:, 0:3] * full, [1]) + wide[:, 3:4]


@script(default_opset=op)
def _lifted(
    full: FLOAT[1, 3, "height", "width"], small: FLOAT[1, 3, "h", "w"], output: FLOAT[1, 3, "h", "w"]
) -> FLOAT[1, 3, "height", "width"]:
    """`AffineModels.fit` and `apply`; below, i and j are colours, k is a channel of the change."""
    both = op.Concat(small, output - small, axis=1)
    mean = _window_mean(both)
    mean_colour = op.Transpose(mean[:, 0:3], perm=[1, 0, 2, 3])
    products = op.Cast(_window_mean(op.Transpose(small, perm=[1, 0, 2, 3]) * both) - mean_colour * mean, to=11)
    covariance = products[:, 0:3] + op.Constant(value=RIDGE)  # (i, j, h, w)
    # The inverse of a symmetric 3 x 3 matrix: cross products of its rows, over the determinant.
    one = op.Gather(covariance, [1, 2, 0], axis=0)
    two = op.Gather(covariance, [2, 0, 1], axis=0)
    left = op.Gather(one, [1, 2, 0], axis=1) * op.Gather(two, [2, 0, 1], axis=1)
    crossed = left - op.Gather(one, [2, 0, 1], axis=1) * op.Gather(two, [1, 2, 0], axis=1)
    determinant = op.ReduceSum(covariance[0:1] * crossed[0:1], [1])
    # (i, 1, j, h, w) * (i, k, 1, h, w), summed over i
    solved = op.ReduceSum(op.Unsqueeze(crossed, [1]) * op.Unsqueeze(products[:, 3:6], [2]), [0], keepdims=0)
    factors = op.Cast(solved / determinant, to=1)  # (k, j, h, w)
    mean_change = op.Transpose(mean[:, 3:6], perm=[1, 0, 2, 3])
    offset = mean_change - op.ReduceSum(mean[:, 0:3] * factors, [1])
    models = _window_mean(op.Concat(factors, offset, axis=1))
    change = op.Concat(_changed(full, models[0:1]), _changed(full, models[1:2]), _changed(full, models[2:3]), axis=1)
    return full + change


@script(default_opset=op)
def after(
    full: FLOAT[1, 3, "height", "width"],
    small: FLOAT[1, 3, "h", "w"],
    alpha: UINT8["height", "width", 1],
    translated: FLOAT[1, 3, "padded_h", "padded_w"],
) -> UINT8["height", "width", 4]:
    """The network's image => pixels: cropped and, where it got a smaller one, carried to full resolution."""
    output = op.Slice(translated, [0, 0], op.Shape(small, start=2, end=4), [2, 3])
    if op.ReduceMax(op.Shape(full) - op.Shape(small), keepdims=0) > 0:
        image = _lifted(full, small, output)
    else:
        image = op.Identity(output)
    levels = op.Clip(op.Round((image + 1.0) * 127.5), 0.0, 255.0)
    colour = op.Transpose(op.Squeeze(op.Cast(levels, to=2), [0]), perm=[1, 2, 0])
    return op.Concat(colour, alpha, axis=2)
