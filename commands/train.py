"""``make train``: train an experiment on a base, then score it on the test split."""

import argparse
import os
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from commands.adapter_card import finish_adapter
from commands.cli import TrainCLI
from commands.experiments import MEMORY, compose, names
from commands.records import write_json
from commands.terminal import user_errors
from lightning_modules.base import NonFiniteLossError
from lightning_modules.callbacks import Evaluation, Throughput
from networks.weights import CARD, read_checkpoint

RUN_FOLDER = "ONE_STEP_RUN_FOLDER"  # tells DDP's child processes, which run this command line again, the folder


def parser() -> argparse.ArgumentParser:
    """Arguments of this command; all others go to LightningCLI."""
    p = argparse.ArgumentParser(
        prog="python -m commands.train",
        description="Train an experiment. Any further argument overrides the configuration, "
        "e.g. --trainer.max_epochs=3 "
        "--model.init_args.generator.init_args.rank_unet=8 --seed_everything=7.",
    )
    p.add_argument("--exp", required=True, metavar="NAME", help=f"one of {', '.join(names())}")
    p.add_argument(
        "--base",
        default="pocket",
        metavar="BASE",
        help="pocket (default), sd-turbo, sdxl-turbo, a folder, or owner/name[@revision]",
    )
    p.add_argument("--data", metavar="FOLDER", help="your images; see docs/your-own-data.md")
    p.add_argument("--memory", metavar="PROFILE", help=f"for a card of this size: {', '.join(names(MEMORY))}")
    p.add_argument("--init", metavar="PATH", help="start from a run, an adapter or a released .pkl")
    p.add_argument("--run", metavar="FOLDER", help="run folder; default runs/EXP/BASE/version_N with the next free N")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    own, overrides = parser().parse_known_args(args)
    recipe = compose(own.exp, own.base, own.memory)
    if own.data is None and not recipe.renders:
        raise ValueError(
            f"{own.base} trains on photographs and DATA is not given: name a folder (DATA=...), "
            "or see `make data NAME=...` for "
            "the public set of this experiment. The packaged base (BASE=pocket) renders its own."
        )
    arguments = [*(f"--config={path}" for path in recipe.configs), *recipe.arguments]
    if own.data is not None:
        arguments.append(f"--data.init_args.root={own.data}")
    if own.init is not None:
        arguments.append(f"--model.init_args.generator.init_args.init={own.init}")
    folder = _run_folder(own.run, Path("runs") / recipe.exp / recipe.run_name)
    return run(folder, [*arguments, *overrides], {"experiment": recipe.exp})


def run(folder: Path, arguments: list[str], card: Mapping[str, Any], checkpoint: Path | None = None) -> int:
    """Fit (from a checkpoint, if given), test, and write metrics.json into the run folder."""
    os.environ[RUN_FOLDER] = str(folder)
    try:
        cli = TrainCLI(folder, arguments)
        model: Any = cli.model
        data: Any = cli.datamodule
        model.card |= card
        rank_zero_info(f"data: {data.description}\njudges: {_judges(cli)}")
        if checkpoint is not None:
            read_checkpoint(checkpoint)
        cli.trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
        cli.trainer.test(model, data, verbose=False, weights_only=True)
    except MisconfigurationException as error:
        raise ValueError(str(error).strip().splitlines()[0]) from error
    except NonFiniteLossError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        del os.environ[RUN_FOLDER]
    _report(folder, cli)
    return 0


def _judges(cli: TrainCLI) -> str:
    evaluation = cli.trainer.callbacks and next(c for c in cli.trainer.callbacks if isinstance(c, Evaluation))  # type: ignore[attr-defined]
    seen = ", ".join(cli.model.training_features)
    return f"training looks at {seen or 'no feature network'}; metrics on {evaluation.names}"


@rank_zero_only
def _report(folder: Path, cli: TrainCLI) -> None:
    callbacks: list[Any] = cli.trainer.callbacks  # type: ignore[attr-defined]
    throughput = next(c for c in callbacks if isinstance(c, Throughput))
    evaluation = next(c for c in callbacks if isinstance(c, Evaluation))
    model: Any = cli.model
    metrics = {
        "images_seen": model.images_seen,
        "batches": model.batches_seen,
        "wall_s": throughput.wall_s,
        "seconds_per_batch": throughput.seconds_per_batch,
        "peak_memory_mb": throughput.peak_memory_mb(),
        "trainable_parameters": sum(p.numel() for p in model.generator.parameters() if p.requires_grad),
        **describe(model.generator, model.card),
        **evaluation.results,
    }
    write_json(folder / "metrics.json", metrics)
    flat = {f"final/{k}_{d}": v for d, r in evaluation.results.items() for k, v in r.items() if isinstance(v, float)}
    logger: Any = cli.trainer.logger
    logger.log_hyperparams(
        {"experiment": model.card.get("experiment", ""), **model.generator.settings, "lr": model._full_lrs[0][0]}, flat
    )
    logger.save()
    print_metrics(metrics)
    if (folder / "adapter" / CARD).is_file():
        print(finish_adapter(folder / "adapter", metrics))
    print(f"run folder: {folder}")


def describe(generator: Any, card: Mapping[str, Any]) -> dict[str, Any]:
    """What a number depends on: base, data, placeholders, versions."""
    return {
        "base": generator.base_description,
        "base_fingerprint": generator.base_fingerprint,
        "data": card.get("data"),
        "rendered_data": bool(card.get("data_is_rendered")),
        "placeholders": ["base"] if generator.base_is_placeholder else [],
        "preprocessing": card.get("preprocessing"),
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("torch", "lightning", "torchmetrics")},
        },
    }


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """The figures of each direction, with the network behind each, a line apiece."""
    for direction in ("a2b", "b2a"):
        if direction in metrics:
            m = metrics[direction]
            copied = m.get("copy_input") or {}
            print(
                f"{direction}: fid({m['fid_features']}) {_figure(m['fid'])} "
                f"(copying the input {_figure(copied.get('fid'))}, floor "
                f"{_figure(m['fid_floor'])})  kid {_figure(m['kid'])}  "
                f"structure({m['structure_features']}) {_figure(m['structure'])}  "
                f"identity gap({m['lpips_features']}) {_figure(m['identity_gap'])}  n {m['n_fake']}/{m['n_real']}"
            )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _run_folder(given: str | None, parent: Path) -> Path:
    inherited = os.environ.get(RUN_FOLDER)
    if inherited:
        return Path(inherited)
    if given is not None:
        folder = Path(given)
        if folder.exists() and any(folder.iterdir()):
            raise ValueError(
                f"Run folder {folder} is not empty: go on in it with `make resume RUN={folder}`, or name another."
            )
    else:
        taken = [int(p.name[8:]) for p in parent.glob("version_*") if p.name[8:].isdigit()]
        folder = parent / f"version_{max(taken, default=-1) + 1}"
    return folder.absolute()


if __name__ == "__main__":
    raise SystemExit(main())
