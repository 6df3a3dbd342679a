"""Which image files are read, which file is written for each, and which are finished; torch-free.

The finished files of a folder are listed in its `translations.jsonl`, so that a further call goes on where an earlier
one was interrupted.
"""

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from images.listing import IMAGE_SUFFIXES, OTHER_IMAGE_SUFFIXES, VIDEO_SUFFIXES, list_images
from images.writing import WRITTEN, check_format
from storage import check_writable, digest, size_and_mtime

RECORD = "translations.jsonl"
Job = tuple[Path, Path]  # image to read, image to write


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What decides over a result's pixels, beside the model and the input.

    Attributes:
        prompt: text that describes the results.
        direction: "a2b" or "b2a".
        strength: in [0, 1]; 1 is deterministic.
        seed: of the noise for a strength below 1.
        size: short side to resize to first, pixels; None keeps each image's own.
        preprocess: "none", "canny" or "sketch".
        resolution: see `inference.high_resolution`.
        depth: bits per channel of what is written, 8 or 16.
        keep_grey: whether a grey file becomes a grey file.
    """

    prompt: str
    direction: str = "a2b"
    strength: float = 1.0
    seed: int = 0
    size: int | None = None
    preprocess: str = "none"
    resolution: str = "auto"
    depth: int = 8
    keep_grey: bool = False


def plan(source: Path, target: Path, suffix: str | None = None, depth: int = 8) -> list[Job]:
    """Pair every image file with the one that is written for it.

    Args:
        source: an image, or a folder, whose sub-folders are kept.
        target: a file for one image, else a folder.
        suffix: ending of the files that are written; None is the one of `target` for a file, .png in a folder.
        depth: bits per channel.

    Raises:
        FileNotFoundError: `source` is missing or holds no image.
        ValueError: `source` is neither file nor folder; `target` cannot take the results, or would overwrite an input;
            two inputs have one output; or the format is not written.
    """
    if not source.exists():
        raise FileNotFoundError(f"Nothing to translate: {source} does not exist. Give an image or a folder.")
    if not source.is_dir() and not source.is_file():
        raise ValueError(f"Nothing to translate: {source} is a pipe, socket or device. Give an image or a folder.")
    ending = target.suffix.lower()
    if ending in VIDEO_SUFFIXES and not target.is_dir():
        kind = "a folder" if source.is_dir() else "no video"
        raise ValueError(f"The input {source} is {kind}, so the output cannot be the video {target}.")
    named_as_image = ending in (*IMAGE_SUFFIXES, *OTHER_IMAGE_SUFFIXES) and not target.is_dir()
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
                f"No images in {source}: looked for *{', *'.join(IMAGE_SUFFIXES)} in all sub-folders. "
                "To translate a video, give the file itself."
            )
        suffix = suffix or ".png"
        jobs = [(image, (target / image.relative_to(source)).with_suffix(suffix)) for image in images]
        check_writable(target / RECORD)
    elif named_as_image:
        if ending not in WRITTEN:
            raise ValueError(
                f"Images are written as {', '.join(WRITTEN)}: name the output {target.with_suffix('.png')} instead of "
                f"{target}."
            )
        if suffix is not None and WRITTEN[suffix] != WRITTEN[ending]:
            raise ValueError(f"The output {target} does not end in {suffix}: leave one of the two out.")
        suffix = ending
        jobs = [(source, target)]
    else:
        suffix = suffix or ".png"
        jobs = [(source, target / f"{source.stem}{suffix}")]
    check_format(suffix, depth)
    _check_targets(jobs)
    return jobs


def _check_targets(jobs: list[Job]) -> None:
    writers: dict[Path, Path] = {}
    inputs = {image.resolve() for image, _ in jobs}
    for image, output in jobs:
        if output in writers:
            raise ValueError(
                f"{writers[output]} and {image} would both become {output}: rename one or move it elsewhere."
            )
        writers[output] = image
        if output.resolve() in inputs:
            raise ValueError(f"The output {output} would overwrite an input image: give another name or folder.")
        check_writable(output)


Entry = Mapping[str, str | int]
"""One line of a record: output and input, relative to their folders, the input's size in bytes and time of change, and
a digest of model and settings."""


class Record:
    """The finished outputs of a folder, `translations.jsonl`: one line per output, written when it is there.

    A line that a killed process left unfinished is ignored.

    Args:
        folder: of the outputs.
        source: folder of the inputs.
        model: digest of the weights and of what computes them.
        settings: of the translation.
    """

    def __init__(self, folder: Path, source: Path, model: str, settings: Settings) -> None:
        self.path = folder / RECORD
        self._folder, self._source = folder, source
        self._facts = {"model": model, **asdict(settings)}
        self._lock = threading.Lock()
        self._file: int | None = None
        self._last: dict[str, object] = {}  # by output: a line replaces earlier ones
        if self.path.is_file():
            with self.path.open("rb") as file:
                for line in file:
                    entry = _parsed(line)
                    self._last[str(entry.get("output"))] = entry

    def entry(self, job: Job, how: str) -> Entry:
        """The line of an output; the input is looked at now, so call this before it is read.

        Args:
            job: the input and its output.
            how: what was chosen for this image, such as its layout.
        """
        size, mtime = size_and_mtime(job[0])
        return {
            "output": job[1].relative_to(self._folder).as_posix(),
            "input": job[0].relative_to(self._source).as_posix(),
            "size": size,
            "mtime_ns": mtime,
            "settings": digest(json.dumps({**self._facts, "how": how}, sort_keys=True)),
        }

    def holds(self, entry: Entry) -> bool:
        """Whether the output is finished, of this input and these settings, and still there."""
        return self._last.get(str(entry["output"])) == entry and (self._folder / str(entry["output"])).is_file()

    def add(self, entry: Entry) -> None:
        """Append the line of an output that is there now; from any thread.

        Raises:
            OSError: it cannot be written.
        """
        line = json.dumps(entry).encode() + b"\n"
        with self._lock:
            if self._file is None:
                self._file = self._opened()
            while line:  # a disk that fills up takes a part first, and then raises
                line = line[os.write(self._file, line) :]
            self._last[str(entry["output"])] = entry

    def __enter__(self) -> "Record":
        """Nothing is opened before the first line."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the file."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _opened(self) -> int:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":  # after a torn line
            os.write(file, b"\n")
        return file


def _parsed(line: bytes) -> dict[str, object]:
    """The entry of a line; empty for one that is torn or no entry."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}
