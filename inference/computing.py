"""The network on images of a folder or frames of a video, in batches that fit into the device's memory."""

import sys
from collections import deque
from collections.abc import Callable, Sequence

from images.ranges import Array
from inference.high_resolution import Layout
from inference.jobs import Settings
from inference.translator import Prepared, Translator

AT_ONCE = 1024 * 1024
"""Pixels that the network of an accelerator gets in one batch, where no number of images was given."""
MOST_AT_ONCE = 64  # images in such a batch


def auto_batch(layout: Layout, device: str) -> int:
    """Images, or tiles of one image, that the network gets together.

    One on a CPU, so that the last bits of a result do not depend on its neighbours; more is faster for small images.

    Args:
        layout: of the images.
        device: name of the backend's device.
    """
    if device.lower().startswith("cpu"):
        return 1
    height, width = layout.network_shape
    return min(MOST_AT_ONCE, max(1, AT_ONCE // (height * width)))


class Compute:
    """The network, in batches that fit into the device's memory.

    Args:
        translator: of an adapter or an exported model.
        batch: images, or tiles of one image, translated together, at most; None is `auto_batch`.  Where the device's
            memory does not suffice, it is halved.
    """

    def __init__(self, translator: Translator, batch: int | None) -> None:
        self._translator, self._batch = translator, batch
        self._most = sys.maxsize  # pixels that fit into the device's memory, as far as is known

    def __call__(
        self,
        images: Sequence[Prepared | str],
        settings: Settings,
        before_pass: Callable[[], None] = lambda: None,
    ) -> list[Array | str]:
        """Translate images of one network shape.

        Args:
            images: prepared, or why they could not be read, which is returned as it is.
            settings: of the translation.
            before_pass: see `Translator.compute`.

        Returns:
            The network's outputs, and why there is none.
        """
        found: list[Array | str] = [image if isinstance(image, str) else "" for image in images]
        places = deque((k, image) for k, image in enumerate(images) if not isinstance(image, str))
        while places:
            layout = places[0][1].layout
            tiled, one = layout.mode == "tiles", layout.network_shape[0] * layout.network_shape[1]
            most = self._batch or auto_batch(layout, self._translator.backend.device)
            most = max(1, min(most, self._most // one))
            some = [places.popleft() for _ in range(1 if tiled else min(most, len(places)))]
            together = most if tiled else len(some)
            try:
                outputs = self._translator.compute(
                    [prepared for _, prepared in some],
                    settings.prompt,
                    settings.direction,
                    settings.strength,
                    settings.seed,
                    together,
                    before_pass,
                )
            except MemoryError as error:
                if together > 1:
                    self._most = together // 2 * one
                    places.extendleft(reversed(some))
                else:
                    found[some[0][0]] = str(error)
                continue
            for (k, _), output in zip(some, outputs, strict=True):
                found[k] = output
        return found
