"""Download a file, from where an earlier attempt stopped, and verify it."""

import os
from pathlib import Path
from typing import Protocol

import pooch

from datamodules.public.dataset import Download

CHUNK = 1 << 16  # bytes; what an interruption costs at most


class DownloadError(ValueError):
    """A download that failed or stopped half way; the same call continues it."""


class _Response(Protocol):
    status_code: int


def download(source: Download, target: Path) -> None:
    """Download a file unless it is there already; an interrupted download stays beside it, ending in ``.part``.

    Args:
        source: address, size and checksum.
        target: path of the complete and verified file.

    Raises:
        DownloadError: the server cannot be reached, or the download stopped half way.
        ValueError: the file is not the one expected; it is removed.
    """
    part = target.with_name(f"{target.name}.part")

    def resume(url: str, output_file: str, _: object) -> None:
        with part.open("ab") as file:
            begin = file.tell()

            def restart(response: _Response, **_: object) -> None:
                if response.status_code == 200:  # no 206: the server cannot start in the middle and sends everything
                    file.truncate(0)

            headers = {"Range": f"bytes={begin}-"} if begin else {}
            fetch = pooch.HTTPDownloader(
                progressbar=True, chunk_size=CHUNK, timeout=60, headers=headers, hooks={"response": restart}
            )
            try:
                if begin < source.size:
                    fetch(url, file, None)
            except OSError as error:
                raise DownloadError(f"Cannot download {url}: {error}. {file.tell()} bytes are there.") from error
        if (size := part.stat().st_size) < source.size:
            raise DownloadError(f"The download of {url} stopped after {size} of {source.size} bytes.")
        os.replace(part, output_file)

    pooch.retrieve(source.url, f"sha256:{source.sha256}", target.name, target.parent, downloader=resume)
