"""Line drawings of a photograph, edges and sketches: inputs of the two paired tasks (paper Sec. 4.3).

Both return white lines on black, ``(3, H, W)``, of -1 and 1 only.
"""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from images.ranges import Array, to_pixels


def _lines(mask: NDArray[np.bool_]) -> Array:
    # (H, W) bool => (3, H, W) of -1 and 1
    return np.where(mask, np.float32(1), np.float32(-1))[None].repeat(3, axis=0)


def canny_edges(image: ArrayLike) -> Array:
    """Canny edges with the thresholds of Edge2Image, 100 and 200 of 255.

    Args:
        image: photograph, ``(3, H, W)`` in [-1, 1].
    """
    return _lines(cv2.Canny(to_pixels(image), 100, 200) > 0)


def sketch_lines(image: ArrayLike) -> Array:
    """A drawing of broad strokes, inverted and binarised at 0.5 as Sketch2Image does with its drawings.

    Extended difference of Gaussians (Winnemoeller et al. 2012): ``D = (1 + p) G_s - p G_ks`` on the brightness,
    softly thresholded to a black-on-white drawing.  The paper's drawings come from a trained network instead.

    Args:
        image: photograph, ``(3, H, W)`` in [-1, 1].
    """
    brightness = cv2.cvtColor(to_pixels(image), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    sigma, ratio, sharpness, level, steepness = 1.4, 1.6, 18.0, 0.42, 10.0
    # Remove texture that is finer than a stroke, keep edges.
    smooth = cv2.bilateralFilter(brightness, 7, 0.1, 3)
    fine = cv2.GaussianBlur(smooth, (0, 0), sigma)
    coarse = cv2.GaussianBlur(smooth, (0, 0), sigma * ratio)
    # Subtract the local brightness, so that a dark wall does not become one black stroke.
    response = 0.5 + (1 + sharpness) * (fine - coarse)
    drawing = np.where(response >= level, 1.0, 1.0 + np.tanh(steepness * (response - level)))
    return _lines(1 - drawing > 0.5)


LINE_DRAWINGS: dict[str, Callable[[ArrayLike], Array]] = {"canny": canny_edges, "sketch": sketch_lines}
"""Each kind of line drawing by its name in settings, adapters and `translate`."""
