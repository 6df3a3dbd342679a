"""``make publish``: share an adapter on the Hugging Face hub."""

import argparse
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from adapter_hub import NEEDED, bars_for_terminals, hub_name
from commands.cli.errors import user_errors
from commands.cli.paths import CONFIG
from inference.backends.exported import MANIFEST
from storage import shortened

if TYPE_CHECKING:
    from networks.checkpoints.card import AdapterCard

# A path from the root, a user's folder or a drive.  Not "0.5/0.9" or "owner/name".
PATH = re.compile(r"""(?:^|[\s"'(=,])(?:~|[A-Za-z]:)?[/\\]+[^\s/\\]""")
PICTURES = "pictures_*.png"


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(
        prog="one-step publish",
        description="Upload an adapter with its card to the Hugging Face hub, where CKPT=owner/name finds it. Needs a "
        "token: HF_TOKEN, or `hf auth login`.",
        allow_abbrev=False,
    )
    p.add_argument("--ckpt", required=True, metavar="PATH", help="run folder or adapter folder")
    p.add_argument("--repo", required=True, metavar="OWNER/NAME", help="on the hub; made if it is not there")
    p.add_argument("--private", action="store_true", help="make it private; one that is there stays what it is")
    p.add_argument("--base", metavar="OWNER/NAME", help="what others know the base as, where a folder was trained on")
    p.add_argument(
        "--licence",
        metavar="NAME",
        help="the hub's identifier, such as cc-by-4.0; default: apache-2.0, or other (that of the base)",
    )
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    own = parser().parse_args(args)
    repo = _repo(own.repo)
    folder = _adapter_folder(Path(own.ckpt))
    if own.licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,63}", own.licence):
        raise ValueError(f"LICENCE={shortened(own.licence)} is no identifier of the hub, such as apache-2.0 or other.")
    if own.base not in (None, "pocket") and hub_name(own.base) is None:
        raise ValueError(f"BASE={shortened(own.base)} is no name that others know a base by: owner/name[@revision].")
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise ValueError("HF_HUB_OFFLINE=1 forbids to ask the hub: leave it out to publish.")
    if get_token() is None:
        raise ValueError(f"No token for {constants.ENDPOINT}: set HF_TOKEN, or log in by `hf auth login`.")
    with TemporaryDirectory(prefix="one-step-publish-") as temporary:
        staged = Path(temporary)
        prepare(folder, staged, repo, own.base, own.licence)
        return upload(staged, repo, own.private)


def _repo(given: str) -> str:
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", given, re.ASCII):
        raise ValueError(f"REPO={shortened(given)} is no name of the hub: give owner/name.")
    return given


def _adapter_folder(path: Path) -> Path:
    """The folder of an adapter's files.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is something else that translates.
    """
    if path.is_file():
        raise ValueError(f"{path} is not published: only adapters in safetensors are. Give a run or adapter folder.")
    if (path / MANIFEST).is_file():
        raise ValueError(f"{path} is an exported model, not an adapter: give the run or adapter it was made of.")
    for folder in (path / "adapter", path):
        if all((folder / name).is_file() for name in NEEDED):
            return folder
    raise FileNotFoundError(
        f"No adapter in {path}: looked for {' and '.join(NEEDED)} there and in {path / 'adapter'}. Give a run folder "
        "(runs/EXP/BASE/version_N) that has finished a validation, or an adapter folder."
    )


def prepare(folder: Path, staged: Path, repo: str, base: str | None, licence: str | None) -> None:
    """Write what is uploaded, without paths of this machine.

    Args:
        folder: of the adapter.
        staged: empty folder that is written to.
        repo: ``owner/name``.
        base: what others know the base as, in place of the folder that the card names.
        licence: the hub's identifier; None takes the usual one.

    Raises:
        ValueError: the adapter cannot be read, or its card holds a path of this machine.
    """
    # These take seconds to import: errors before come at once.
    from evaluation.model_card import readme
    from networks.checkpoints.adapter import CARD, WEIGHTS, read_adapter, write_adapter

    adapter = read_adapter(folder)
    card = public_card(adapter.card, base, folder / CARD)
    write_adapter(staged, adapter.tensors, card, adapter.prompts)
    in_run = folder.name == "adapter" and (folder.parent / CONFIG).is_file()  # else beside it lies what is no run's
    pictures = sorted((folder.parent if in_run else folder).glob(PICTURES))
    for picture in pictures:
        shutil.copyfile(picture, staged / picture.name)
    size = (staged / WEIGHTS).stat().st_size / 2**20
    text = readme(card, size, repo, [picture.name for picture in pictures], licence)
    (staged / "README.md").write_text(text, encoding="utf-8")


def public_card(card: "AdapterCard", base: str | None, where: Path) -> "AdapterCard":
    """The card as others may read it: the base by a name of the hub, the data by its folder's name alone.

    Raises:
        ValueError: the base is a folder and no name was given for it, or another entry holds a path; one line.
    """
    if base is None and card.base is not None and (Path(card.base).is_dir() or PATH.search(card.base)):
        raise ValueError(
            f"{where} names its base by a folder of this machine, {card.base}: give the name that others know it by, "
            "BASE=owner/name."
        )
    if base is not None:
        description = f"{base} at random weights" if card.base_random_init else base
        card = replace(card, base=base, base_description=description)
    if card.run.data is not None and ": " in card.run.data:
        root, _, rest = card.run.data.partition(": ")
        name = re.split(r"[/\\]", root.rstrip("/\\"))[-1]
        if name != root:
            print(f"data: {root} is published as {name}")
            card = replace(card, run=replace(card.run, data=f"{name}: {rest}"))
    for entry, text in _texts(card.to_json()):
        if PATH.search(text):
            raise ValueError(
                f"{where} is not published: {entry} seems to hold a path of this machine, {shortened(text)}. "
                "Change that entry."
            )
    return card


def _texts(value: object, name: str = "") -> Iterator[tuple[str, str]]:
    """Every text in JSON values, keys too, by its dotted name."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, Mapping):
        for key, one in value.items():
            yield f"a name in {name or 'it'}", key
            yield from _texts(one, f"{name}.{key}".lstrip("."))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one, name)


def upload(staged: Path, repo: str, private: bool) -> int:
    """Upload every file of a folder in one commit; returns the exit code.

    Raises:
        ValueError: the repository holds something else, or the hub refused; one line.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    bars_for_terminals()
    api = HfApi()
    files = sorted(staged.iterdir())
    print(f"To {api.endpoint}/{repo}{', private' if private else ''}:")
    for file in files:
        print(f"  {file.name}, {file.stat().st_size / 2**20:.2f} MiB")
    sys.stdout.flush()
    try:
        try:
            there = {file.rfilename for file in api.model_info(repo).siblings or []}
        except RepositoryNotFoundError:
            there = set()
        if there - {".gitattributes", "README.md"} and NEEDED[0] not in there:
            raise ValueError(f"{repo} holds something else ({min(there)}): give another REPO=owner/name.")
        api.create_repo(repo, private=private or None, exist_ok=True)
        operations = [CommitOperationAdd(file.name, file) for file in files]
        commit = api.create_commit(repo, operations, commit_message="Adapter with its card")
    except ValueError:
        raise
    except Exception as error:  # of whatever kind its HTTP library raises
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{api.endpoint} did not take {repo}: {lines[0][:300].rstrip('.')}.") from error
    print(f"Published: {api.endpoint}/{repo}, commit {commit.oid}")
    print(f"make translate CKPT={repo}@{commit.oid} IN=photos OUT=translated")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
