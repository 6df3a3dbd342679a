"""Inspect a data folder before training: decode every image, count sizes and modes, draw a contact sheet."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw
from tqdm import tqdm

from datamodules.base import TranslationData
from datamodules.files.layouts import Domain, Pairs, find_two_folders
from datamodules.paired import PairedImages, different_shapes
from datamodules.plausibility import is_one_colour, same_content
from datamodules.unpaired import UnpairedImages
from images.headers import read_header, reason
from images.line_drawings import LINE_DRAWINGS
from images.listing import list_images
from images.opening import UNREADABLE, open_image
from images.ranges import Array, to_pixels
from images.reading import read_image
from images.resizing import check_resized

COLUMNS, TILE, LABEL = 8, 112, 14  # tiles in a row, pixels of a tile's side, pixels of a row's heading
MANY = 8  # items of a list that are named
ANNOTATIONS = (".txt", ".json", ".jsonl", ".csv")


@dataclass
class Inspection:
    """The content of a data folder, and what is wrong with it.

    Attributes:
        files: image files by domain and stage; by the stage "all" where the stages cannot be told apart.
        sizes: number of images by size.
        modes: number of images by colour mode.
        shapes: height and width of each readable image, pixels.
        unused: other files of the folder, but for captions and prompts.
        captioned: number of images with a caption of their own, and of all; None where captions are not used.
        line_drawing: name of the line drawing that is computed as input; None for images that are used as they are.
        warnings: what training would run on, but cannot be meant.
        notes: what need not be mended.
        problems: what training would fail on.
    """

    files: Mapping[str, Mapping[str, Sequence[Path]]]
    sizes: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    shapes: dict[Path, tuple[int, int]] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    captioned: tuple[int, int] | None = None
    line_drawing: str | None = None
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def rows(self) -> Iterator[tuple[str, str, Sequence[Path]]]:
        """Stage, domain and files, stage by stage."""
        for stage in dict.fromkeys(stage for stages in self.files.values() for stage in stages):
            for domain, stages in self.files.items():
                yield stage, domain, stages.get(stage, [])

    def summary(self) -> list[str]:
        """Numbers of images by stage, sizes, modes, unused files, notes and captions, a line each."""
        counts: dict[str, list[str]] = {}
        for stage, domain, files in self.rows():
            counts.setdefault(stage, []).append(f"{domain} {len(files)}")
        lines = [f"{stage:9} {', '.join(numbers)}" for stage, numbers in counts.items()]
        lines += [
            f"{name:9} {_few(f'{value} ({count})' for value, count in counter.most_common()) or 'none'}"
            for name, counter in (("sizes", self.sizes), ("modes", self.modes))
        ]
        if self.unused:
            lines.append(f"unused    {_few(self.unused)}")
        lines += [f"warning   {warning}" for warning in self.warnings]
        lines += [f"note      {note}" for note in self.notes]
        if self.captioned:
            own, every = self.captioned
            lines.append(f"captions  {own} of {every} images have their own, the others get the experiment's default")
        return lines


def inspect_folders(kind: type[TranslationData], roots: Sequence[Path], sides: set[int]) -> Inspection:
    """Look through one folder, or one of each domain, as a data module would read it, decoding every image.

    Args:
        kind: data module whose layout is expected.
        roots: the folder, or that of A and that of B.
        sides: short sides, pixels, at which images are used.

    Raises:
        FileNotFoundError: a folder is missing or empty.
        ValueError: the data module is neither an `UnpairedImages` nor a `PairedImages`.
    """
    if not issubclass(kind, UnpairedImages | PairedImages):
        raise ValueError(f"{kind.__name__} does not list files, so that there is nothing to look through.")
    problems: list[str] = []
    pairs: Pairs | None = None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if issubclass(kind, PairedImages):
                pairs = kind.list_files(roots[0], seed=0)
                domains = _named(pairs)
            else:
                listed = (
                    find_two_folders(roots[0], roots[1], seed=0)
                    if len(roots) == 2
                    else kind.list_files(roots[0], seed=0)
                )
                domains = dict(zip(kind.domain_names, listed, strict=True))
            files: Mapping[str, Mapping[str, Sequence[Path]]] = {
                name: {str(stage): paths for stage, paths in d.files.items()} for name, d in domains.items()
            }
        except ValueError as error:
            # Which file belongs where is not known; the images can be looked at all the same.
            problems.append(str(error))
            files = {"photograph": {"all": [path for root in roots for path in list_images(root)]}}
    found = Inspection(files, notes=[str(note.message) for note in caught], problems=problems)
    _decode(found, roots)
    _check_resized(found, sides)
    if not kind.shares_images:
        _compare_domains(found)
    if pairs is None:
        return found
    if pairs.inputs:
        differ = {side: message for side in sides if (message := different_shapes(pairs, found.shapes, [side]))}
        if len(differ) == len(sides):
            found.problems.append(next(iter(differ.values())))
        else:  # a matter of rounding, which depends on the side
            found.notes[:0] = [f"at {side} pixels, which not every base uses: {m}" for side, m in differ.items()]
    else:
        found.line_drawing = kind.line_drawing if issubclass(kind, PairedImages) else None
    captions = [caption for stage in pairs.captions.values() for caption in stage]
    if captions:
        found.captioned = sum(caption is not None for caption in captions), len(captions)
    return found


def _named(pairs: Pairs) -> dict[str, Domain]:
    return {"input": pairs.inputs, "target": pairs.targets} if pairs.inputs else {"photograph": pairs.targets}


def _decode(found: Inspection, roots: Sequence[Path]) -> None:
    files = sorted({path for _, _, paths in found.rows() for path in paths})
    broken: list[str] = []
    plain: set[Path] = set()
    for path in tqdm(files, unit="image", desc="decoding", leave=False, disable=None):
        try:
            height, width = read_header(path)
            with open_image(path) as header:
                mode = header.mode
            if is_one_colour(read_image(path)):
                plain.add(path)
        except UNREADABLE as error:
            broken.append(f"{path}: {reason(error).rpartition(': ')[2]}")
            continue
        found.sizes[f"{width} x {height}"] += 1
        found.modes[mode] += 1
        found.shapes[path] = height, width
    if len(broken) > MANY:
        broken = [*broken[:MANY], f"{len(broken) - MANY} more images cannot be read"]
    found.problems += broken
    for domain, stages in found.files.items():
        paths = sorted({path for below in stages.values() for path in below})
        if alike := [path for path in paths if path in plain]:
            found.warnings.append(
                f"{len(alike)} of {len(paths)} images of {domain} are of a single colour, such as {alike[0]}"
            )
    known = set(files)
    for root in roots:
        others = (path for path in root.rglob("*") if path.is_file() and path.suffix not in ANNOTATIONS)
        found.unused += sorted(path.relative_to(root).as_posix() for path in others if path not in known)


def _compare_domains(found: Inspection) -> None:
    """Find images that are in both domains."""
    if len(found.files) != 2:
        return
    (name_a, a), (name_b, b) = found.files.items()
    by_size: dict[int, list[Path]] = {}
    for path in sorted({path for files in b.values() for path in files} & found.shapes.keys()):
        by_size.setdefault(path.stat().st_size, []).append(path)
    candidates = sorted({path for files in a.values() for path in files} & found.shapes.keys())
    twins = {p: t for p in candidates if (t := same_content(p, by_size.get(p.stat().st_size, [])))}
    if twins:
        first, twin = next(iter(twins.items()))
        found.warnings.append(
            f"{len(twins)} of {len(candidates)} images of {name_a} are in {name_b} too, such as {first} and {twin}"
        )


def _check_resized(found: Inspection, sides: set[int]) -> None:
    """Find images that would become too large at the sides at which they are used."""
    for side in sorted(sides):
        for path, (height, width) in found.shapes.items():
            try:
                check_resized(path, height, width, side)
            except ValueError as error:
                if side == min(sides):
                    found.problems.append(str(error))
                else:
                    found.notes.append(f"at {side} pixels, which not every base uses: {error}")
                return


def _few(items: Iterable[str]) -> str:
    listed = list(items)
    more = f" and {len(listed) - MANY} more" if len(listed) > MANY else ""
    return ", ".join(listed[:MANY]) + more


def contact_sheet(found: Inspection) -> Image.Image:
    """Some images of every stage and domain, evenly spread, with computed line drawings below photographs."""
    rows: list[tuple[str, list[Array]]] = []
    for stage, domain, paths in found.rows():
        step = max(1, len(paths) // COLUMNS)
        images = [image for path in paths[::step][:COLUMNS] if (image := _thumbnail(path)) is not None]
        rows.append((f"{stage}: {domain} ({len(paths)})", images))
        if found.line_drawing:
            draw = LINE_DRAWINGS[found.line_drawing]
            rows.append((f"{stage}: {found.line_drawing}", [draw(image) for image in images]))
    page = Image.new("RGB", (COLUMNS * TILE, len(rows) * (TILE + LABEL)), "white")
    pen = ImageDraw.Draw(page)
    for row, (heading, images) in enumerate(rows):
        top = row * (TILE + LABEL)
        pen.text((2, top + 1), heading, fill="black")
        for column, image in enumerate(images):
            tile = Image.fromarray(to_pixels(image))
            tile.thumbnail((TILE, TILE))
            page.paste(tile, (column * TILE, top + LABEL))
    return page


def _thumbnail(path: Path) -> Array | None:
    # Made smaller where it is much larger than its tile; None where it cannot be read.
    try:
        return read_image(path, min(2 * TILE, *read_header(path)))
    except UNREADABLE:
        return None
