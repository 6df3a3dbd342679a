"""Which image files are read, and which PNG is written for each; torch-free."""

from pathlib import Path

from images.listing import IMAGE_SUFFIXES, list_images
from storage import check_writable

Job = tuple[Path, Path]  # image to read, PNG to write


def plan(source: Path, target: Path) -> list[Job]:
    """Pair every image file with the PNG that is written for it.

    Args:
        source: an image, or a folder, whose sub-folders are kept.
        target: a PNG for one image, else a folder.

    Raises:
        FileNotFoundError: `source` is missing or holds no image.
        ValueError: `source` is neither file nor folder; or `target` cannot take the results, or would overwrite an
            input.
    """
    if not source.exists():
        raise FileNotFoundError(f"Nothing to translate: {source} does not exist. Give an image or a folder.")
    if not source.is_dir() and not source.is_file():
        raise ValueError(f"Nothing to translate: {source} is a pipe, socket or device. Give an image or a folder.")
    named_as_image = target.suffix.lower() in IMAGE_SUFFIXES and not target.is_dir()
    if source.is_dir():
        if named_as_image or target.is_file():
            raise ValueError(f"The input {source} is a folder, so the output must be one too, not the file {target}.")
        if target.resolve().is_relative_to(source.resolve()):
            raise ValueError(
                f"The output {target} is the input folder or lies in it, so results would be taken for input: "
                "give another folder."
            )
        images = list_images(source)
        if not images:
            raise FileNotFoundError(
                f"No images in {source}: looked for *{', *'.join(IMAGE_SUFFIXES)} in all sub-folders."
            )
        jobs = [(image, (target / image.relative_to(source)).with_suffix(".png")) for image in images]
    elif named_as_image:
        if target.suffix.lower() != ".png":
            raise ValueError(
                f"Results are written as PNG: name the output {target.with_suffix('.png')} instead of {target}."
            )
        jobs = [(source, target)]
    else:
        jobs = [(source, target / f"{source.stem}.png")]
    _check_targets(jobs)
    return jobs


def _check_targets(jobs: list[Job]) -> None:
    writers: dict[Path, Path] = {}
    inputs = {image.resolve() for image, _ in jobs}
    for image, png in jobs:
        if png in writers:
            raise ValueError(f"{writers[png]} and {image} would both become {png}: rename one or move it elsewhere.")
        writers[png] = image
        if png.resolve() in inputs:
            raise ValueError(f"The output {png} would overwrite an input image: give another name or folder.")
        check_writable(png)
