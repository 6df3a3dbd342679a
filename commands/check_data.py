"""``make check-data``: look through a data folder before training, and draw a contact sheet of it."""

import argparse
import importlib
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from commands.cli.errors import user_errors
from commands.cli.recipes import FULL_SIZE, compose
from datamodules.base import TranslationData
from datamodules.files.layouts import STAGES, Domain, Pairs, existing_root
from datamodules.paired import different_shapes
from images.contours import CONTOURS
from images.headers import read_header, reason
from images.listing import list_images
from images.ranges import to_pixels
from images.reading import UNREADABLE, read_image
from images.resizing import resize_short_side

COLUMNS, TILE, LABEL = 8, 112, 14  # tiles in a row, pixels of a tile's side, pixels of a row's heading
MANY = 8  # lines of a kind at most


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 where something was found that training would stumble over."""
    p = argparse.ArgumentParser(prog="python -m commands.check_data", description=__doc__, allow_abbrev=False)
    p.add_argument("--exp", required=True, help="experiment whose layout is expected")
    p.add_argument("--data", required=True, metavar="FOLDER", help="the folder, as for training")
    p.add_argument("--out", help="contact sheet to write (default check-data-EXP.png)")
    options = p.parse_args(args)
    recipe = compose(options.exp).config["data"]
    module, _, name = recipe["class_path"].rpartition(".")
    kind: type[TranslationData] = getattr(importlib.import_module(module), name)
    sheet = Path(options.out or f"check-data-{options.exp}.png")
    if sheet.suffix.lower() != ".png":
        raise ValueError(f"The contact sheet is a PNG: name OUT {sheet.with_suffix('.png')} instead of {sheet}.")

    root = existing_root(options.data)
    problems: list[str] = []
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            found: Any = kind.list_files(root, seed=0)
        except ValueError as error:
            # Which file belongs where is not known; what is there can be looked at all the same.
            problems.append(str(error))
            found = Pairs(Domain(dict.fromkeys(STAGES, root), {"all": list_images(root)}))
    domains = rows(found, kind)
    print(f"{name}: {root}")
    for stage in dict.fromkeys(stage for _, domain in domains for stage in domain.files):
        print(f"  {stage:9}", ", ".join(f"{label} {len(domain.files.get(stage, []))}" for label, domain in domains))
    files = sorted({path for _, domain in domains for paths in domain.files.values() for path in paths})
    broken, shapes = look_through(files, root)
    problems += broken
    if isinstance(found, Pairs) and found.inputs:
        used = sides(options.exp)
        differ = {side: words for side in used if (words := different_shapes(found, shapes, [side]))}
        if len(differ) == len(used):
            problems.append(next(iter(differ.values())))
        else:  # rounding: the base decides which side it is
            for side, words in differ.items():
                print(f"  note      at {side} pixels, which not every base uses: {words}")
    for note in notes:
        print(f"  note      {note.message}")
    if isinstance(found, Pairs) and found.captions:
        own = sum(caption is not None for captions in found.captions.values() for caption in captions)
        every = sum(map(len, found.captions.values()))
        print(f"  captions  {own} of {every} pictures have their own, the others get the experiment's default")
    contour = getattr(kind, "contour", None) if isinstance(found, Pairs) and found.inputs is None else None
    draw_sheet(domains, contour, sheet)
    print(f"  contact sheet: {sheet}")
    print("\n".join(f"problem: {problem}" for problem in problems) or "no problems found")
    return 1 if problems else 0


def rows(found: Any, kind: type[TranslationData]) -> list[tuple[str, Domain]]:
    """The domains with their names."""
    if not isinstance(found, Pairs):
        return list(zip(kind.domain_names, found, strict=True))
    inputs = [("input", found.inputs)] if found.inputs else []
    return [*inputs, ("target" if inputs else "photograph", found.targets)]


def sides(exp: str) -> set[int]:
    """Short sides, pixels, at which the experiment uses pictures, on the packaged base and at full size."""
    settings = [compose(exp, base).config["data"]["init_args"] for base in ("pocket", FULL_SIZE[0])]
    return {init_args[name] for init_args in settings for name in ("resize", "eval_size")}


def look_through(files: list[Path], root: Path) -> tuple[list[str], dict[Path, tuple[int, int]]]:
    """Decode every picture; prints sizes and modes, returns what is wrong, and height and width of the others."""
    sizes: Counter[str] = Counter()
    shapes: dict[Path, tuple[int, int]] = {}
    modes: Counter[str] = Counter()
    broken: list[str] = []
    for path in tqdm(files, unit="picture", desc="decoding", leave=False, disable=None):
        try:
            height, width = read_header(path)
            with Image.open(path) as header:
                mode = header.mode
            read_image(path)
        except UNREADABLE as error:
            broken.append(f"{path}: {reason(error).rpartition(': ')[2]}")
            continue
        sizes[f"{width} x {height}"] += 1
        shapes[path] = height, width
        modes[mode] += 1
    print("  sizes    ", few(f"{size} ({count})" for size, count in sizes.most_common()) or "none")
    print("  modes    ", few(f"{mode} ({count})" for mode, count in modes.most_common()) or "none")
    known = set(files)
    others = [path for path in root.rglob("*") if path.is_file() and path not in known]
    strangers = [
        path.relative_to(root).as_posix() for path in others if path.suffix not in (".txt", ".json", ".jsonl", ".csv")
    ]
    if strangers:
        print("  unused   ", few(sorted(strangers)))
    if len(broken) > MANY:
        broken = [*broken[:MANY], f"{len(broken) - MANY} more pictures cannot be read"]
    return broken, shapes


def few(items: Iterable[str]) -> str:
    """A list in one line, cut where it becomes long."""
    listed = list(items)
    more = f" and {len(listed) - MANY} more" if len(listed) > MANY else ""
    return ", ".join(listed[:MANY]) + more


def draw_sheet(domains: list[tuple[str, Domain]], contour: str | None, sheet: Path) -> None:
    """Write some pictures of every split and domain, evenly spread, with computed inputs below photographs."""
    lines: list[tuple[str, list[Tensor]]] = []
    for stage in dict.fromkeys(stage for _, domain in domains for stage in domain.files):
        for label, domain in domains:
            paths = domain.files.get(stage, [])
            step = max(1, len(paths) // COLUMNS)
            pictures = [picture for path in paths[::step][:COLUMNS] if (picture := readable(path)) is not None]
            lines.append((f"{stage}: {label} ({len(paths)})", pictures))
            if contour:
                lines.append((f"{stage}: {contour}", [CONTOURS[contour](picture) for picture in pictures]))
    page = Image.new("RGB", (COLUMNS * TILE, len(lines) * (TILE + LABEL)), "white")
    pen = ImageDraw.Draw(page)
    for row, (heading, pictures) in enumerate(lines):
        top = row * (TILE + LABEL)
        pen.text((2, top + 1), heading, fill="black")
        for column, picture in enumerate(pictures):
            tile = Image.fromarray(to_pixels(picture))
            tile.thumbnail((TILE, TILE))
            page.paste(tile, (column * TILE, top + LABEL))
    sheet.parent.mkdir(parents=True, exist_ok=True)
    page.save(sheet)


def readable(path: Path) -> Tensor | None:
    """A picture, made smaller where it is much larger than its tile; None where it cannot be read."""
    try:
        picture = read_image(path)
    except UNREADABLE:
        return None
    return resize_short_side(picture, min(2 * TILE, *picture.shape[-2:]))


if __name__ == "__main__":
    raise SystemExit(main())
