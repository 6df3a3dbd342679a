"""``make resume``: go on exactly where a run stopped, in the same folder."""

import argparse
from pathlib import Path

from commands.terminal import user_errors
from commands.train import run
from networks.weights import read_checkpoint


def parser() -> argparse.ArgumentParser:
    """Arguments of this command; all others go to LightningCLI."""
    p = argparse.ArgumentParser(
        prog="python -m commands.resume",
        description="Resume a run from its last checkpoint. A finished run is extended by a new limit, "
        "e.g. --model.init_args.max_images=4000.",
    )
    p.add_argument("--run", required=True, metavar="FOLDER", help="runs/EXP/BASE/version_N")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    own, overrides = parser().parse_known_args(args)
    folder = Path(own.run).absolute()
    config, last = folder / "config.yaml", folder / "checkpoints" / "last.ckpt"
    if not config.is_file():
        raise FileNotFoundError(f"No run to resume in {own.run}: looked for {config}. Give runs/EXP/BASE/version_N.")
    if not last.is_file():
        raise FileNotFoundError(
            f"Nothing to resume in {own.run}: {last} is written at the first validation. Train anew."
        )
    card = read_checkpoint(last)["adapter"]
    return run(folder, [f"--config={config}", *overrides], {"experiment": card.get("experiment", "")}, last)


if __name__ == "__main__":
    raise SystemExit(main())
