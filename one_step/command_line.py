"""The program ``one-step``: every command of the Make targets, with its variables as options."""

import ast
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from storage import did_you_mean

COMMANDS = (
    *("train", "resume", "translate", "serve", "demo", "export", "publish"),
    *("evaluate", "compare", "estimate", "ablate", "data", "check-data", "doctor", "pocket", "adapters"),
)


def main(args: list[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    words = sys.argv[1:] if args is None else args
    if not words or words[0] in ("-h", "--help"):
        print("usage: one-step COMMAND [options]\n\nCommands (one-step COMMAND --help lists the options of each):")
        for name in COMMANDS:
            print(f"  {name:<12} {_summary(name)}")
        print("\nMessages name options as `make` does: CKPT= is --ckpt.")
        return 0
    name, *options = words
    if name not in COMMANDS:
        print(
            f"error: Unknown command {name!r}.{did_you_mean(name, COMMANDS)} `one-step --help` lists them.",
            file=sys.stderr,
        )
        return 2
    return int(import_module(_module(name)).main(options) or 0)


def _module(name: str) -> str:
    return f"commands.{name.replace('-', '_')}"


def _summary(name: str) -> str:
    """What a command does: the first line of its module's docstring, read without importing it."""
    spec = find_spec(_module(name))
    assert spec is not None and spec.origin is not None
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text())) or ""
    return text.splitlines()[0].partition(": ")[2].rstrip(".")


if __name__ == "__main__":
    raise SystemExit(main())
