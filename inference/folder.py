"""Translate one image file or every image file of a folder."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from images.writing import write_image
from inference.high_resolution import Layout
from inference.jobs import Job
from inference.translator import Translator


def batches(jobs: Iterable[Job], layouts: dict[Path, Layout], size: int) -> Iterator[list[Job]]:
    """Jobs in groups of one mode and network shape, at most ``size`` each."""

    def alike(job: Job) -> tuple[str, tuple[int, int]]:
        layout = layouts[job[0]]
        return layout.mode, layout.network_shape

    for _, group in groupby(sorted(jobs, key=alike), key=alike):
        some = list(group)
        yield from (some[k : k + size] for k in range(0, len(some), size))


def translate_folder(
    translator: Translator,
    jobs: list[Job],
    layouts: dict[Path, Layout],
    prompt: str,
    direction: str = "a2b",
    strength: float = 1.0,
    seed: int = 0,
    size: int | None = None,
    preprocess: str = "none",
    resolution: str = "auto",
    batch_size: int = 1,
) -> Iterator[int]:
    """Translate image files and write the results as PNG, those of one shape together.

    Args:
        translator: of an adapter or an exported model.
        jobs: what is read and what is written for it; see `plan`.
        layouts: how each image is translated; see `Translator.layout`.
        prompt: text that describes the results.
        direction: "a2b" or "b2a".
        strength: in [0, 1]; 1 is deterministic.
        seed: of the noise for a strength below 1.
        size: short side to resize to first, pixels.
        preprocess: "none", "canny" or "sketch".
        resolution: see `inference.high_resolution`.
        batch_size: images or tiles translated together, at most.

    Yields:
        Number of images written since the last one.
    """
    for batch in batches(jobs, layouts, batch_size):
        prepared = [translator.prepare(path, size, preprocess, resolution) for path, _ in batch]
        outputs = translator.compute(prepared, prompt, direction, strength, seed, batch_size)
        for (_, png), one, output in zip(batch, prepared, outputs, strict=True):
            write_image(png, translator.finish(one, output), one.alpha)
        yield len(batch)
