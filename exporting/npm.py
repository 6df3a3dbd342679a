"""Packages of npm that pages load, fetched once: pinned, checked by their digest, kept in the cache folder."""

import base64
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

from storage import atomic_write, cache_folder, shortened

PATIENCE = 600  # seconds for some 30 MB


def fetch(package: str, integrity: str) -> Path:
    """The archive of a package, from the cache folder; npm downloads it where it is not there.

    Args:
        package: name and version, "name@1.2.3".
        integrity: SHA-512 of the archive in base64, as npm's registry has it.

    Raises:
        ValueError: npm is missing, cannot download it, or gives another file than the known one.
        OSError: the cache folder cannot be written to.
    """
    path = cache_folder() / f"{package.replace('@', '-')}.tgz"
    if path.is_file() and _integrity(path) == integrity:
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            f"npm, which fetches {package} for the page, is not installed: install it (apt-get install npm, or "
            "https://nodejs.org), then run the command again."
        )
    with atomic_write(path) as part, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [npm, "pack", package, "--ignore-scripts", "--silent", "--pack-destination", folder]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"npm did not fetch {package} within {PATIENCE} seconds. Is its registry reached?"
            ) from error
        except subprocess.CalledProcessError as error:
            raise ValueError(
                f"npm could not fetch {package}: {_reason(error.stderr)}. See `npm pack {package}`."
            ) from error
        found = [*Path(folder).glob("*.tgz")]
        if len(found) != 1 or _integrity(found[0]) != integrity:
            raise ValueError(
                f"npm gave another file for {package} than its known one (sha512): it is not used. Is another registry "
                "configured (npm config get registry)?"
            )
        shutil.copyfile(found[0], part)
    return path


def _integrity(path: Path) -> str:
    """The digest by which npm knows a package."""
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def _reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return shortened(lines[-1]) if lines else "it says no reason"
