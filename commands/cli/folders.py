"""The options that name the user's images: one folder, or one of each domain."""

import argparse
from pathlib import Path

from commands.cli.keys import parameters
from commands.cli.recipes import Recipe
from datamodules.files.layouts import existing_root


def add_folders(parser: argparse.ArgumentParser) -> None:
    """Add ``--data``, ``--a`` and ``--b``."""
    parser.add_argument("--data", metavar="FOLDER", help="your images; see docs/your-own-data.md")
    parser.add_argument("--a", metavar="FOLDER", help="in place of --data: images of A, in any layout")
    parser.add_argument("--b", metavar="FOLDER", help="and those of B")


def data_settings(own: argparse.Namespace, recipe: Recipe) -> dict[str, str]:
    """The settings of the data module that hold the folders: ``root``, and with ``--a`` and ``--b`` ``root_b``.

    Args:
        own: what `add_folders` parsed.
        recipe: whose data module reads the folders.

    Returns:
        Nothing where no folder is named.

    Raises:
        FileNotFoundError: a folder is not there.
        ValueError: the options do not fit together, or the experiment does not read two folders.
    """
    if own.a is None and own.b is None:
        folders = {} if own.data is None else {"root": own.data}
    else:
        known = parameters(recipe.config["data"]["class_path"])
        if known is not None and "root_b" not in known:
            raise ValueError(
                f"{recipe.exp} is no experiment for two unrelated folders, A= and B=: its images, or its pairs, are in "
                "one folder, DATA= (docs/your-own-data.md)."
            )
        if own.data is not None:
            raise ValueError("DATA= is given beside A= or B=: name one folder, DATA=, or those of both domains.")
        if own.a is None or own.b is None:
            raise ValueError(
                f"{'A' if own.a is None else 'B'}= is missing: A= and B= name the folders of both domains."
            )
        folders = {"root": own.a, "root_b": own.b}
    for folder in folders.values():
        existing_root(Path(folder))
    return folders
