"""Adapters on the Hugging Face hub: ``owner/name[@revision]`` where a path may stand.

Only the three files of an adapter are fetched, into the hub's cache, at one commit: no pickle and no code.  What reads
them checks them as any other adapter's.  huggingface_hub is imported when something is fetched.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from storage import atomic_write, shortened

MOST_BYTES = {"prompts.safetensors": 32 << 20, "adapter.json": 1 << 20, "adapter.safetensors": 4 << 30}
"""Files of an adapter in the order in which they are fetched, with their largest sizes."""
NEEDED = ("adapter.json", "adapter.safetensors")
COMMIT = re.compile("[0-9a-f]{40}")
_NAME = r"\w[\w-]*(?:\.[\w-]+)*"
_FORM = re.compile(rf"({_NAME}/{_NAME})(?:@({_NAME}(?:/{_NAME})*))?", re.ASCII)
_FILES = (".ckpt", ".pkl", ".pt", ".pth", ".bin", ".safetensors", ".json", ".onnx")


@dataclass(frozen=True)
class HubName:
    """An adapter on the hub.

    Attributes:
        repo: ``owner/name``.
        revision: branch, tag or commit; None for the main branch.
    """

    repo: str
    revision: str | None

    def __str__(self) -> str:
        """As it is typed."""
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


def hub_name(given: str | Path) -> HubName | None:
    """What a text names on the hub; None where it is a path.

    It is a path where its first folder exists, or would be ``runs``: the hub is not asked for what was mistyped.

    Examples:
        >>> hub_name("owner/fog@v1"), hub_name("runs/fog")
        (HubName(repo='owner/fog', revision='v1'), None)
    """
    text = str(given)
    found = _FORM.fullmatch(text) if len(text) <= 250 else None
    if found is None or text.endswith(_FILES) or text.startswith("runs/"):
        return None
    return None if Path(Path(text).parts[0]).exists() else HubName(found[1], found[2])


def pin(name: HubName) -> HubName:
    """Fetch an adapter, and name the commit that came.

    Raises:
        OSError: see `fetch`.
        ValueError: likewise.
    """
    return HubName(name.repo, fetch(name).name)


def fetch(name: HubName, download: bool = True) -> Path:
    """The folder of an adapter in the hub's cache, fetched where it is not there.

    A commit that is in the cache costs no request; with ``HF_HUB_OFFLINE=1`` the cache is all there is.

    Args:
        name: what to fetch.
        download: whether the hub may be asked.

    Returns:
        The folder, whose name is the commit.

    Raises:
        FileNotFoundError: the hub, or without it the cache, has no such adapter; one line.
        ValueError: a file is larger than any adapter's, or the hub's answer is no answer; one line.
    """
    from huggingface_hub import constants

    offline = constants.HF_HUB_OFFLINE
    if (offline or not download or COMMIT.fullmatch(name.revision or "")) and (folder := _cached(name)):
        return folder
    if offline or not download:
        why = "HF_HUB_OFFLINE=1 forbids to ask the hub" if offline else "what a run names is not downloaded"
        raise FileNotFoundError(f"No adapter {name}: there is no such path, the hub's cache lacks it, and {why}.")
    try:
        return _download(name)
    except _RefusedError as error:
        raise ValueError(str(error)) from error
    except Exception as error:  # of whatever kind its HTTP library raises
        raise FileNotFoundError(
            f"No adapter {name}: there is no such path, and {constants.ENDPOINT} gave none: {_why(error, name)}."
        ) from error


def bars_for_terminals() -> None:
    """Let huggingface_hub draw its progress bars on a terminal only."""
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()


class _RefusedError(Exception):
    """What the hub holds or answered is not taken."""


def _cached(name: HubName) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = [try_to_load_from_cache(name.repo, file, revision=name.revision) for file in NEEDED]
    return Path(found[0]).parent if isinstance(found[0], str) and isinstance(found[1], str) else None


def _download(name: HubName) -> Path:
    from huggingface_hub import HfApi, hf_hub_download

    bars_for_terminals()
    info = HfApi().model_info(name.repo, revision=name.revision, files_metadata=True)
    commit = str(info.sha)
    if not COMMIT.fullmatch(commit):
        raise _RefusedError(f"{name} is not fetched: the hub names the commit {shortened(commit)}.")
    sizes = {file.rfilename: file.size for file in info.siblings or []}
    if missing := [file for file in NEEDED if file not in sizes]:
        others = ", ".join(shortened(file) for file in sorted(sizes)[:3]) or "nothing"
        raise _RefusedError(
            f"{name} lacks {' and '.join(missing)}, so it is no adapter; it holds {others}. "
            "Other files, pickles above all, are not fetched."
        )
    for file, most in MOST_BYTES.items():
        size = sizes.get(file, 0)
        if not isinstance(size, int) or not 0 <= size <= most:
            raise _RefusedError(f"{name} is not fetched: {file} has {shortened(size)} bytes, at most {most:,} are.")
    for file in MOST_BYTES:
        if file in sizes:
            path = Path(hf_hub_download(name.repo, file, revision=commit))
            if path.stat().st_size != sizes[file]:
                raise _RefusedError(f"{name}: {file} came with {path.stat().st_size:,} bytes, not {sizes[file]:,}.")
    if name.revision != commit:  # so that the name is found without the hub
        with atomic_write(path.parents[2] / "refs" / (name.revision or "main")) as part:
            part.write_text(commit)
    return path.parent


def _why(error: Exception, name: HubName) -> str:
    """Why the hub did not answer, in a few words."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return f"accept the conditions on the page of {name.repo} and give HF_TOKEN"
    if isinstance(error, RepositoryNotFoundError):
        return f"{name.repo} is not there, or private: then give HF_TOKEN"
    if isinstance(error, RevisionNotFoundError):
        return f"{name.repo} has no revision {name.revision}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300].rstrip(".")
