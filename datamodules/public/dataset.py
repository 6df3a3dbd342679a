"""What is known of a public data set: content, terms of use, download address and layout."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Download:
    """A file that anyone may download.

    Attributes:
        url: its address.
        size: bytes.
        sha256: its checksum, 64 hexadecimal digits.
    """

    url: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PublicDataset:
    """A public data set.

    Attributes:
        name: short name, also that of its module in this package.
        about: one line with its content and terms of use.
        how: how to get it.
        experiment: name of the experiment that trains on it.
        folder: the experiment's data folder, relative to the folder that data sets are unpacked into.
        files: regular expression of a file's path in an archive => its path after unpacking; other files are left out.
        needed: folders that have to be there before a training can start.
        together_with: further data sets that the experiment needs.
        download: the archive, where it may be downloaded without registration.
    """

    name: str
    about: str
    how: str
    experiment: str
    folder: str = "."
    files: dict[str, str] = field(default_factory=dict)
    needed: tuple[str, ...] = ()
    together_with: tuple[str, ...] = ()
    download: Download | None = None

    def missing(self, root: Path) -> list[Path]:
        """The needed folders that are not there."""
        return [root / path for path in self.needed if not (root / path).is_dir()]
