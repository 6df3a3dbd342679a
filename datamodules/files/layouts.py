"""Layouts of image folders: which files train, validate and test."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar, cast

import numpy as np

from datamodules.files.captions import caption_of, read_captions
from images.listing import PathList, list_images
from storage import read_utf8

Stage = Literal["train", "validate", "test"]
"""What images are used for."""

STAGES: tuple[Stage, ...] = ("train", "validate", "test")
FOLDER_NAMES: dict[Stage, str] = {"train": "train", "validate": "val", "test": "test"}
T = TypeVar("T")


@dataclass
class Domain:
    """The image files of one domain.

    Attributes:
        folders: folder of each stage, which the names of its files are relative to.
        files: files of each stage.
        test_is_validation: whether validation's files stand in for a missing test split.
    """

    folders: dict[Stage, Path]
    files: Mapping[Stage, Sequence[Path]]
    test_is_validation: bool = False


@dataclass
class Pairs:
    """Targets, their inputs, and captions.

    Attributes:
        targets: the photographs.
        inputs: same order and number, or None where inputs are computed from the targets.
        captions: one per target by stage; None where a target has none of its own.  A stage may be missing.
    """

    targets: Domain
    inputs: Domain | None = None
    captions: dict[Stage, list[str | None]] = field(default_factory=dict)


def existing_root(root: str | Path) -> Path:
    """The folder as given.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not a folder.
    """
    path = Path(root).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"No data folder {root} (looked for {path.absolute()}). Check the path.")
    if not path.is_dir():
        raise ValueError(f"{root} is a file, a folder of images is needed.")
    return path


def hold_out(items: Sequence[T], seed: int, what: str) -> tuple[Sequence[T], Sequence[T]]:
    """Split off a part of the training items: 10 %, at least 4, at most 200.

    Args:
        items: in an order that is the same on every machine.
        seed: of the draw.
        what: their folder, for the error message.

    Returns:
        What still trains, and what was held out; both in the order given.

    Raises:
        ValueError: nothing would be left to train on.
    """
    count = min(max(round(0.1 * len(items)), 4), 200)
    if len(items) <= count:
        raise ValueError(
            f"{what} holds {len(items)} images: too few to hold out {count} for validation. "
            "Add images, or give validation a folder of its own beside it (val_A, val_B; for photographs val)."
        )
    chosen = set(np.random.default_rng([seed, len(items)]).permutation(len(items))[:count].tolist())
    kept = pick(items, (i for i in range(len(items)) if i not in chosen))
    return kept, pick(items, sorted(chosen))


def pick(items: Sequence[T], places: Iterable[int]) -> Sequence[T]:
    """The items at some places, in their order; of a `PathList` another one."""
    if isinstance(items, PathList):
        return cast(Sequence[T], items.take(places))
    return [items[place] for place in places]


def complete(found: Mapping[Stage, Sequence[T]], seed: int, what: str) -> tuple[dict[Stage, Sequence[T]], bool]:
    """Fill in the stages that a data set does not name.

    Args:
        found: "train", and perhaps "validate" and "test".
        seed: of the hold-out that becomes validation.
        what: folder of the training items, for messages.

    Returns:
        All three stages, and whether test had to be the validation items.
    """
    train, validate = found["train"], found.get("validate", [])
    if not validate:
        train, validate = hold_out(train, seed, what)
    test = found.get("test", [])
    if not test:
        warnings.warn(
            f"{what} has no test images beside it: the final report uses the validation images.", stacklevel=2
        )
    return {"train": train, "validate": validate, "test": test or validate}, not test


def split_folder(root: Path, stage: Stage, letter: str) -> Path | None:
    """``train_A`` or ``trainA`` and the like; None if neither is there."""
    names = (f"{FOLDER_NAMES[stage]}_{letter}", f"{FOLDER_NAMES[stage]}{letter}")
    return next((root / name for name in names if (root / name).is_dir()), None)


def has_domains(root: Path) -> bool:
    """Whether a folder has the layout ``train_A``, ``train_B``, or a part of it."""
    return any(split_folder(root, stage, letter) for stage in STAGES for letter in "AB")


def stage_folders(root: Path, letter: str) -> dict[Stage, Path]:
    """Folder of each stage; a stage without one takes its files from another's."""
    train = split_folder(root, "train", letter) or root
    validate = split_folder(root, "validate", letter) or train
    return {"train": train, "validate": validate, "test": split_folder(root, "test", letter) or validate}


def find_domain(root: Path, letter: str) -> dict[Stage, Sequence[Path]]:
    """Files of one domain by stage; only "train" has to be there.

    Raises:
        FileNotFoundError: there is no folder of training images, or a folder is empty.
    """
    if split_folder(root, "train", letter) is None:
        raise FileNotFoundError(
            f"{root} has no folder train_{letter} (or train{letter}): put the training images of domain {letter} there."
        )
    found: dict[Stage, Sequence[Path]] = {}
    for stage in STAGES:
        folder = split_folder(root, stage, letter)
        if folder is None:
            continue
        found[stage] = list_images(folder)
        if not found[stage]:
            raise FileNotFoundError(f"No images in {folder}: put those of domain {letter} there.")
    return found


def find_unpaired(root: Path, seed: int) -> tuple[Domain, Domain]:
    """Both domains of a folder with ``train_A``, ``train_B`` and perhaps ``val_*`` and ``test_*``.

    Raises:
        FileNotFoundError: a folder is missing or empty.
    """
    domains = []
    for letter in "AB":
        files, test_is_validation = complete(find_domain(root, letter), seed, f"{split_folder(root, 'train', letter)}")
        domains.append(Domain(stage_folders(root, letter), files, test_is_validation))
    return domains[0], domains[1]


def find_two_folders(folder_a: Path, folder_b: Path, seed: int) -> tuple[Domain, Domain]:
    """Both domains of any two folders: every image below them, of which a part is held out for validation and test.

    Raises:
        FileNotFoundError: there is no image in one of them.
        ValueError: they share images, or are too small for a part to be held out.
    """
    if folder_a.resolve() == folder_b.resolve():
        raise ValueError(f"{folder_a} and {folder_b} are one folder: each domain needs its own.")
    for inner, outer in ((folder_a, folder_b), (folder_b, folder_a)):
        if outer.resolve() in inner.resolve().parents:
            raise ValueError(
                f"{inner} is inside {outer}, so that its images would be in both domains: move one of them."
            )
    domains = []
    for folder in (folder_a, folder_b):
        images = list_images(folder)
        if not images:
            raise FileNotFoundError(f"No images in {folder} or below it.")
        files, test_is_validation = complete({"train": images}, seed, f"{folder}")
        domains.append(Domain(dict.fromkeys(STAGES, folder), files, test_is_validation))
    return domains[0], domains[1]


def find_pairs(root: Path, seed: int) -> Pairs:
    """Pairs of ``train_A`` and ``train_B`` by file name without its ending, with their captions.

    Raises:
        FileNotFoundError: a folder is missing or empty.
        ValueError: the names of inputs and targets differ.
    """
    a, b = find_domain(root, "A"), find_domain(root, "B")
    if a.keys() != b.keys():
        stage = next(stage for stage in STAGES if (stage in a) != (stage in b))
        name = FOLDER_NAMES[stage]
        raise ValueError(f"{root} has only one of {name}_A and {name}_B: pairs need both.")
    found: dict[Stage, list[tuple[Path, Path, str | None]]] = {}
    for stage in a:
        name, folder = FOLDER_NAMES[stage], stage_folders(root, "B")[stage]
        captions = read_captions(root, name)
        matched = _matched(root, stage, a[stage], b[stage])
        found[stage] = [(i, t, caption_of(t.relative_to(folder), captions)) for i, t in matched]
        if captions and not any(caption for *_, caption in found[stage]):
            raise ValueError(
                f"No name in {root}/{name}_prompts.* is an image of {name}_B; the first is {next(iter(captions))!r}."
            )
    pairs, test_is_validation = complete(found, seed, f"{split_folder(root, 'train', 'B')}")
    inputs = {stage: [path for path, _, _ in pairs[stage]] for stage in STAGES}
    targets = {stage: [path for _, path, _ in pairs[stage]] for stage in STAGES}
    return Pairs(
        targets=Domain(stage_folders(root, "B"), targets, test_is_validation),
        inputs=Domain(stage_folders(root, "A"), inputs, test_is_validation),
        captions={stage: [caption for *_, caption in pairs[stage]] for stage in STAGES},
    )


def _matched(root: Path, stage: Stage, inputs: Sequence[Path], targets: Sequence[Path]) -> list[tuple[Path, Path]]:
    names = [f"{FOLDER_NAMES[stage]}_{letter}" for letter in "AB"]
    by_stem: list[dict[str, Path]] = []
    for letter, files in zip("AB", (inputs, targets), strict=True):
        folder = split_folder(root, stage, letter)
        stems: dict[str, Path] = {}
        for path in files:
            stem = path.relative_to(folder or root).with_suffix("").as_posix()
            if stem in stems:
                raise ValueError(f"{stems[stem]} and {path} have one name: which of them belongs to the pair?")
            stems[stem] = path
        by_stem.append(stems)
    left, right = by_stem
    alone = [f"{names[0]}/{s}" for s in sorted(left.keys() - right.keys())]
    alone += [f"{names[1]}/{s}" for s in sorted(right.keys() - left.keys())]
    if alone:
        more = f" and {len(alone) - 5} more" if len(alone) > 5 else ""
        raise ValueError(
            f"{len(alone)} images of {root} have no partner of the same name: {', '.join(alone[:5])}{more}."
        )
    return [(left[stem], right[stem]) for stem in sorted(left)]


def find_photographs(root: Path, seed: int) -> Pairs:
    """Photographs in ``train/`` (``val/``, ``test/``), or anywhere below the folder, to compute inputs from.

    Without ``train/``, what lies in neither ``val/`` nor ``test/`` trains; without any of the three, a seeded tenth is
    held out for testing, and another for validation.

    Raises:
        FileNotFoundError: there are none.
        ValueError: captions are given, and none belongs to an image.
    """
    folder = root / "train"
    found: dict[Stage, Sequence[Path]] = {
        stage: list_images(root / name) for stage, name in FOLDER_NAMES.items() if (root / name).is_dir()
    }
    if not folder.is_dir():
        folder = root
        # By real path: links may lead into val/ and test/.
        evaluated = {os.path.realpath(path) for files in found.values() for path in files}
        found["train"] = [path for path in list_images(root) if os.path.realpath(path) not in evaluated]
        if found["train"] and not evaluated:
            found["train"], found["test"] = hold_out(found["train"], seed + 1, f"{root}")
    if not found["train"]:
        raise FileNotFoundError(
            f"No images to train on in {folder}: looked for train_A and train_B (pairs), train/ and test/ "
            "(photographs), or images anywhere below it."
            if folder == root
            else f"No images in {folder}: put the training photographs there."
        )
    files, test_is_validation = complete(found, seed, f"{folder}")
    return Pairs(
        Domain(dict.fromkeys(STAGES, root), files, test_is_validation), captions=_captions_of_photographs(root, files)
    )


def _captions_of_photographs(root: Path, files: Mapping[Stage, Sequence[Path]]) -> dict[Stage, list[str | None]]:
    """Captions by stage.  A name without folder is an image in its split's folder: splits often reuse numbers.

    Images in none of these folders belong to training; where there is no such folder, every caption file may name them.
    """
    given = {name: read_captions(root, name) for name in FOLDER_NAMES.values()}
    every = given["test"] | given["val"] | given["train"]
    loose = given["train"] if any((root / name).is_dir() for name in given) else every

    def own(name: Path) -> str | None:
        by_path = every.get(name.as_posix()) if len(name.parts) > 1 else None
        return by_path or caption_of(name, given.get(name.parts[0], loose))

    found = {stage: [own(path.relative_to(root)) for path in files[stage]] for stage in STAGES}
    used = {caption for captions in found.values() for caption in captions}
    for name, captions in given.items():
        if captions and used.isdisjoint(captions.values()):
            raise ValueError(
                f"No name in {root}/{name}_prompts.* is an image of {root}; the first is {next(iter(captions))!r}."
            )
    return found


def read_prompt(root: Path, letter: str) -> str | None:
    """The line in ``fixed_prompt_a.txt`` (or ``_b``), None where there is no such file.

    Raises:
        ValueError: it is empty or not UTF-8.
    """
    path = root / f"fixed_prompt_{letter}.txt"
    if not path.is_file():
        return None
    prompt = " ".join(read_utf8(path).split())
    if not prompt:
        raise ValueError(f"{path} is empty: write one line that describes domain {letter.upper()}, or remove it.")
    return prompt
