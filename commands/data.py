"""``make data``: get a public data set, or learn where to register for it and which files to put where."""

import argparse
import contextlib
import hashlib
import http.client
import os
import re
import shutil
import stat
import tarfile
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from commands.cli.errors import user_errors

CHUNK = 1 << 20  # bytes


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        about: what it is, and under which terms.
        how: what to do to get it.
        train: the command that uses it; ``{out}`` is the folder.
        files: pattern of a file's path in an archive => its path below the folder.
        needed: what has to be there before training can start.
        url: where it may be fetched without asking anyone.
        size: bytes behind ``url``.
        sha256: of what is behind ``url``.
    """

    about: str
    how: str
    train: str
    files: dict[str, str] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    url: str | None = None
    size: int | None = None
    sha256: str | None = None


SETS = {
    "horse2zebra": DataSet(
        about="horse2zebra (CycleGAN): 1187 horses and 1474 zebras of ImageNet, 256 x 256; research use",
        how="Fetched from the authors' server (117 MB).",
        train="make train EXP=horse2zebra DATA={out}/horse2zebra",
        files={r"(?:^|/)((?:train|test)[AB]/[^/]+\.(?:jpg|jpeg|png))$": r"horse2zebra/\1"},
        needed=tuple(f"horse2zebra/{split}{letter}" for split in ("train", "test") for letter in "AB"),
        url="https://efrosgans.eecs.berkeley.edu/cyclegan/datasets/horse2zebra.zip",
        # The authors publish no checksum.  Size and SHA-256 are TensorFlow Datasets' (url_checksums/cycle_gan.txt).
        size=116867962,
        sha256="a74d9d392eecca9966b51287a76ca126af473d9de4f3e8fc0e9cda08fa1730a1",
    ),
    "bdd100k": DataSet(
        about="BDD100K: 100 000 driving pictures with weather and time of day; BDD100K licence, registration",
        how="Register at http://bdd-data.berkeley.edu and download '100K Images' and 'Labels' (of 2018, "
        "bdd100k_labels_release.zip) or 'Detection 2020'.\nThen for each file: make data NAME=bdd100k ARCHIVE=file\n"
        "No checksum is known here; unpacking verifies the CRC of each file in a zip.",
        train="make train EXP=day2night DATA={out}",
        files={
            r"(?:^|/)100k/((?:train|val)/[^/]+\.jpg)$": r"bdd100k/images/100k/\1",
            r"(?:^|/)(bdd100k_labels_images_(?:train|val)\.json)$": r"bdd100k/labels/\1",
            r"(?:^|/)(det_20/det_(?:train|val)\.json)$": r"bdd100k/labels/\1",
        },
        needed=("bdd100k/images/100k/train", "bdd100k/images/100k/val", "bdd100k/labels"),
    ),
    "dense": DataSet(
        about="DENSE, SeeingThroughFog: road scenes in fog, snow and rain; research use, registration",
        how="Register at https://www.uni-ulm.de/en/in/driveu/projects/dense-datasets and download the archive with the "
        "folder cam_stereo_left_lut (SeeingThroughFog). The split lists are the folder splits of\n"
        "https://github.com/princeton-computational-imaging/SeeingThroughFog (its 'Download ZIP'). "
        "Then for each: make data NAME=dense ARCHIVE=file\n"
        "EXP=clear2foggy also needs BDD100K: make data NAME=bdd100k. No checksum is known here.",
        train="make train EXP=clear2foggy DATA={out}",
        files={
            r"(?:^|/)cam_stereo_left_lut/([^/]+\.png)$": r"SeeingThroughFog/cam_stereo_left_lut/\1",
            r"(?:^|/)splits/([^/]+\.txt)$": r"SeeingThroughFog/splits/\1",
        },
        needed=("SeeingThroughFog/cam_stereo_left_lut", "SeeingThroughFog/splits"),
    ),
    "photographs": DataSet(
        about="photographs of your own, to compute edges or sketches from",
        how="Put pictures into FOLDER/train and FOLDER/test (or all into FOLDER: then a part is kept back).",
        train="make train EXP=edge2image DATA=FOLDER",
    ),
}


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    p = argparse.ArgumentParser(prog="python -m commands.data", description=__doc__, allow_abbrev=False)
    p.add_argument("--name", required=True, help=f"one of {', '.join(SETS)}")
    p.add_argument("--archive", help="downloaded zip or tar file to unpack")
    p.add_argument("--out", default="data", help="folder the data sets are put into (default %(default)s)")
    options = p.parse_args(args)
    if options.name not in SETS:
        raise ValueError(f"Unknown data set {options.name!r}. Known: {', '.join(SETS)}.")
    data, out = SETS[options.name], Path(options.out)
    print(data.about)
    if options.archive and not data.files:
        raise ValueError(f"{options.name} needs no archive: {data.how}")
    if options.archive:
        unpack(Path(options.archive), data, out)
    elif all((out / path).is_dir() for path in data.needed) and data.needed:
        print(f"Already in {out}.")
    elif data.url is None:
        print(data.how)
    else:
        archive = download(data.url, out / f".{options.name}.zip", data.size, data.sha256)
        unpack(archive, data, out)
        archive.unlink()
    missing = [str(out / path) for path in data.needed if not (out / path).is_dir()]
    print(f"Still missing: {', '.join(missing)}" if missing else data.train.format(out=out))
    return 0


def download(url: str, target: Path, size: int | None = None, sha256: str | None = None) -> Path:
    """Fetch a file, from where an earlier attempt stopped.

    Args:
        url: of the file.
        target: where to; the attempt is kept beside it with the ending .part.
        size: expected bytes.
        sha256: expected hash.

    Returns:
        ``target``, complete and verified.

    Raises:
        ValueError: it cannot be fetched, or is not what it should be.
    """
    if target.is_file():
        return target
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.is_file() else 0
    if size is None or have < size:
        try:
            _fetch(url, part, have)
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", error)
            raise ValueError(
                f"Cannot fetch {url}: {why}. Try again to go on from {part.stat().st_size if part.is_file() else 0} "
                "bytes, or download it by other means and give ARCHIVE=file."
            ) from error
    have = part.stat().st_size
    if size is not None and have < size:
        raise ValueError(
            f"The download of {url} stopped after {have} of {size} bytes. The same command goes on from there."
        )
    if sha256 is not None and _sha256(part) != sha256:
        part.unlink()
        raise ValueError(
            f"{url} is not the file expected: its SHA-256 is not {sha256[:12]}... It was removed, nothing unpacked."
        )
    os.replace(part, target)
    return target


def _fetch(url: str, part: Path, have: int) -> None:
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=60) as answer:
        # A server that cannot go on in the middle answers 200 and starts anew.
        goes_on = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        length = answer.headers.get("Content-Length")
        start = have if goes_on else 0
        total = int(length) + start if length else None
        with (
            part.open("ab" if goes_on else "wb") as file,
            tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=url.rpartition("/")[2]) as progress,
        ):
            while piece := answer.read(CHUNK):
                file.write(piece)
                progress.update(len(piece))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def unpack(archive: Path, data: DataSet, out: Path) -> None:
    """Put an archive's files where the data set's layout wants them: all, or none.

    Raises:
        FileNotFoundError: no such archive.
        ValueError: it is damaged, unsafe, of another data set, or its files are there already.
    """
    if not archive.is_file():
        raise FileNotFoundError(f"No archive {archive}.")
    if not (zipfile.is_zipfile(archive) or tarfile.is_tarfile(archive)):
        raise ValueError(f"{archive} is neither a zip nor a tar file.")
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=".unpack-", dir=out))
    try:
        try:
            count = _extract(archive, data, staging)
        except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise ValueError(f"Cannot unpack {archive}: {error}. Is it complete?") from error
        except OSError as error:
            raise ValueError(f"Cannot unpack {archive} into {out}: {error}.") from error
        if not count:
            wanted = ", ".join(data.needed)
            raise ValueError(f"{archive} holds nothing of this data set: looked for the files of {wanted}.")
        _move(staging, out)
        print(f"{count} files unpacked into {out}.")
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _extract(archive: Path, data: DataSet, staging: Path) -> int:
    count = 0
    with contextlib.ExitStack() as stack:
        for name, source in tqdm(_members(archive, stack), unit="file", desc=archive.name):
            places = (
                re.sub(f".*{pattern}", place, name) for pattern, place in data.files.items() if re.search(pattern, name)
            )
            place = next(places, None)
            if place is None:
                continue
            target = staging / place
            target.parent.mkdir(parents=True, exist_ok=True)
            with source() as packed, target.open("wb") as file:
                shutil.copyfileobj(packed, file, CHUNK)
            count += 1
    return count


def _members(archive: Path, stack: contextlib.ExitStack) -> Iterator[tuple[str, "Opener"]]:
    """Names of the regular files of a zip or tar, each with how to open it.

    Raises:
        ValueError: a member would leave the folder it is unpacked into.
    """
    if zipfile.is_zipfile(archive):
        zipped = stack.enter_context(zipfile.ZipFile(archive))
        entries = zipped.infolist()
        for entry in entries:
            _refuse_unsafe(archive, entry.filename, stat.S_ISLNK(entry.external_attr >> 16))
        yield from ((e.filename, Opener(zipped, e)) for e in entries if not e.is_dir())
    else:
        # Read in one pass: going back in a compressed tar means unpacking it again.
        packed = stack.enter_context(tarfile.open(archive))
        for member in packed:
            _refuse_unsafe(archive, member.name, not (member.isreg() or member.isdir()))
            if member.isreg():
                yield member.name, Opener(packed, member)


@dataclass
class Opener:
    """Opens one member of an archive."""

    archive: zipfile.ZipFile | tarfile.TarFile
    member: zipfile.ZipInfo | tarfile.TarInfo

    def __call__(self) -> IO[bytes]:
        """The member's content."""
        if isinstance(self.archive, zipfile.ZipFile):
            assert isinstance(self.member, zipfile.ZipInfo)
            return self.archive.open(self.member)
        assert isinstance(self.member, tarfile.TarInfo)
        content = self.archive.extractfile(self.member)
        assert content is not None  # a regular file
        return content


def _refuse_unsafe(archive: Path, name: str, special: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if special or path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name):
        raise ValueError(
            f"{archive} is refused: its member {name!r} is a link or leads out of the folder. Nothing was unpacked."
        )


def _move(staging: Path, out: Path) -> None:
    # A folder that is not there yet moves as a whole; else the folders within it, each of which must be new.
    moves: list[tuple[Path, Path]] = []

    def plan(folder: Path) -> None:
        for path in sorted(folder.iterdir()):
            target = out / path.relative_to(staging)
            if not target.exists():
                moves.append((path, target))
            elif path.is_dir() and target.is_dir() and not any(p.is_file() for p in path.iterdir()):
                plan(path)
            else:
                raise ValueError(f"{target} is already there: remove it first, or give another folder with OUT=.")

    plan(staging)
    for path, target in moves:
        os.replace(path, target)


if __name__ == "__main__":
    raise SystemExit(main())
