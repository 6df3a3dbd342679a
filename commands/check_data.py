"""``make check-data``: check a data folder before training, and write a contact sheet of it."""

import argparse
import importlib
from pathlib import Path

from commands.cli.errors import user_errors
from commands.cli.folders import add_folders, data_settings
from commands.cli.recipes import FULL_SIZE, compose
from datamodules.files.layouts import existing_root
from storage import atomic_write, check_writable


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns 0, or 1 where something was found that training would fail on."""
    p = argparse.ArgumentParser(prog="one-step check-data", description=__doc__, allow_abbrev=False)
    p.add_argument("--exp", required=True, help="experiment whose layout is expected")
    add_folders(p)
    p.add_argument("--out", help="contact sheet to write (default check-data-EXP.png)")
    options = p.parse_args(args)
    # The experiment with the packaged base, and at full size: sizes differ.
    recipes = [compose(options.exp, base) for base in ("pocket", FULL_SIZE[0])]
    sides = {recipe.config["data"]["init_args"][name] for recipe in recipes for name in ("resize", "eval_size")}
    folders = data_settings(options, recipes[0])
    if not folders:
        raise ValueError("No folder to check: name it, DATA=my-data, or one of each domain, A=clear B=foggy.")
    sheet = Path(options.out or f"check-data-{Path(options.exp).stem}.png").expanduser()
    if sheet.suffix.lower() != ".png":
        raise ValueError(f"The contact sheet is a PNG: name OUT {sheet.with_suffix('.png')} instead of {sheet}.")
    check_writable(sheet)

    from datamodules.inspection import contact_sheet, inspect_folders  # imports torch: after the checks

    module, _, name = recipes[0].config["data"]["class_path"].rpartition(".")
    roots = [*map(existing_root, folders.values())]
    found = inspect_folders(getattr(importlib.import_module(module), name), roots, sides)
    print("\n  ".join([f"{name}: {' and '.join(map(str, roots))}", *found.summary()]))
    with atomic_write(sheet) as part:
        contact_sheet(found).save(part, format="PNG")
    print(f"  contact sheet: {sheet}")
    print("\n".join(f"problem: {problem}" for problem in found.problems) or "no problems found")
    return 1 if found.problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
