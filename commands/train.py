"""``make train``: train an experiment on a base, then score it on the test split."""

import argparse
import os
import platform
import sys
from contextlib import nullcontext
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only

from commands.cli.errors import user_errors
from commands.cli.header import header
from commands.cli.lightning_cli import TrainCLI
from commands.cli.recipes import MEMORY, Recipe, compose, names
from evaluation.model_card import finish_adapter
from evaluation.summary import summary
from lightning_modules.base import NonFiniteLossError
from lightning_modules.callbacks import Throughput
from networks import ImageTranslator
from networks.checkpoints.adapter import CARD, read_checkpoint
from networks.checkpoints.card import AdapterCard, RunFacts
from storage import lock_folder, write_json

RUN_FOLDER = "ONE_STEP_RUN_FOLDER"  # tells DDP's child processes, which run this command line again, the folder


def parser() -> argparse.ArgumentParser:
    """Arguments of this command; all others go to LightningCLI."""
    p = argparse.ArgumentParser(
        prog="python -m commands.train",
        description="Train an experiment. Any further argument overrides the configuration, "
        "e.g. --model.init_args.max_images=2000 "
        "--model.init_args.generator.init_args.rank_unet=8 --seed_everything=7.",
    )
    p.add_argument("--exp", required=True, metavar="NAME", help=f"{', '.join(names())}, or a YAML file of your own")
    p.add_argument(
        "--base",
        metavar="BASE",
        help="pocket (default), sd-turbo, sdxl-turbo, resnet, a folder, owner/name[@revision], or a YAML file",
    )
    p.add_argument("--data", metavar="FOLDER", help="your images; see docs/your-own-data.md")
    p.add_argument("--memory", metavar="PROFILE", help=f"for a card of this size: {', '.join(names(MEMORY))}")
    p.add_argument("--init", metavar="PATH", help="start from a run, an adapter or a released .pkl")
    p.add_argument("--run", metavar="FOLDER", help="run folder; default runs/EXP/BASE/version_N with the next free N")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    own, recipe, arguments = configuration(args)
    folder = _run_folder(own.run, Path("runs") / recipe.exp / recipe.base)
    return run(folder, arguments, recipe.exp)


def configuration(args: list[str] | None) -> tuple[argparse.Namespace, Recipe, list[str]]:
    """This command's own arguments, the recipe that they choose, and LightningCLI's arguments for it.

    Raises:
        ValueError: experiment, base or memory profile is unknown, or the base needs data and none is named.
    """
    own, overrides = parser().parse_known_args(args)
    recipe = compose(own.exp, own.base, own.memory)
    if own.data is None and not recipe.renders:
        raise ValueError(
            f"{recipe.base} trains on photographs and DATA is not given: name a folder (DATA=...), "
            "or see `make data NAME=...` for "
            "the public set of this experiment. The packaged base (BASE=pocket) renders its own."
        )
    arguments = recipe.arguments
    if own.data is not None:
        arguments.append(f"--data.init_args.root={own.data}")
    if own.init is not None:
        arguments.append(f"--model.init_args.generator.init_args.init={own.init}")
    return own, recipe, [*arguments, *overrides]


def run(folder: Path, arguments: list[str], experiment: str, checkpoint: Path | None = None) -> int:
    """Fit (from a checkpoint, if given), test the last and the best state, and write metrics.json there."""
    os.environ[RUN_FOLDER] = str(folder)
    try:
        cli = TrainCLI(folder, arguments, experiment)
        with lock_folder(folder) if cli.trainer.is_global_zero else nullcontext():
            _report(folder, cli, _train(cli, checkpoint))
    except MisconfigurationException as error:
        raise ValueError(str(error).strip().splitlines()[0]) from error
    except NonFiniteLossError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        del os.environ[RUN_FOLDER]
    return 0


def _train(cli: TrainCLI, checkpoint: Path | None) -> dict[str, Any]:
    """Content of metrics.json once training and both tests are done."""
    model: Any = cli.model
    data: Any = cli.datamodule
    _check_validation(cli)
    seen = 0 if checkpoint is None else read_checkpoint(checkpoint)["progress"]["images_seen"]
    if cli.trainer.is_global_zero:
        print(header(cli, seen), flush=True)
    cli.trainer.fit(model, data, ckpt_path=checkpoint, weights_only=True)
    cli.trainer.test(model, data, verbose=False, weights_only=True)
    metrics = _figures(cli)
    best = _test_best(cli)
    return metrics | ({"best": best} if best else {})


def _check_validation(cli: TrainCLI) -> None:
    """Before training and not after it.

    Raises:
        ValueError: the score that chooses the best checkpoint cannot be computed from so few pictures.
    """
    data: Any = cli.datamodule
    trainer: Any = cli.trainer
    chosen_by = [str(c.monitor) for c in trainer.checkpoint_callbacks if getattr(c, "monitor", None)]
    for monitor in chosen_by:
        direction = monitor.rpartition("_")[2]
        if not monitor.startswith(("val/fid_", "val/kid_")) or direction not in data.directions:
            continue
        counts = [len(get(direction, "validate")) for get in (data.evaluation_set, data.reference_set)]
        limit = trainer.limit_val_batches
        if isinstance(limit, int):
            counts[0] = min(counts[0], limit * data.eval_batch_size * trainer.world_size)
        if limit and min(counts) < 2:
            raise ValueError(
                f"Validation has {counts[0]} pictures to translate in {direction} and {counts[1]} to compare with, and "
                f"{monitor}, which chooses the best checkpoint, needs two of each. Raise val_scenes or "
                "limit_val_batches; of a folder, add pictures, or leave val_A and val_B out: a tenth of training's is "
                "held out then."
            )


def _figures(cli: TrainCLI) -> dict[str, Any]:
    """Content of metrics.json for the state that training ended with, once it is tested."""
    throughput = next(c for c in cli.trainer.callbacks if isinstance(c, Throughput))  # type: ignore[attr-defined]
    model: Any = cli.model
    return {
        "images_seen": model.images_seen,
        "batches": model.batches_seen,
        "wall_s": throughput.wall_s,
        "seconds_per_batch": throughput.seconds_per_batch,
        "peak_memory_mb": throughput.peak_memory_mb,
        "trainable_parameters": sum(p.numel() for p in model.generator.parameters() if p.requires_grad),
        **describe(model.generator, model.run),
        **cli.scoring.results,
    }


def _test_best(cli: TrainCLI) -> dict[str, Any] | None:
    """Test the checkpoint that validation chose, if it is another state than the last; None where none was chosen.

    The module then holds that state, and callbacks its counts.
    """
    trainer: Any = cli.trainer
    kept = [c for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor]
    path = Path(next((c.best_model_path for c in kept if c.best_model_path), ""))
    # All ranks test or none does: the file may lie on a disk that only the first one sees.
    if not trainer.strategy.reduce_boolean_decision(path.is_file()):
        return None
    seen = read_checkpoint(path)["progress"]["images_seen"]
    best = {"checkpoint": path.name, "images_seen": seen}
    if seen == cli.model.images_seen:
        return {**best, "is_last": True}
    trainer.test(cli.model, cli.datamodule, ckpt_path=path, verbose=False, weights_only=True)
    return {**best, **cli.scoring.results}


@rank_zero_only
def _report(folder: Path, cli: TrainCLI, metrics: dict[str, Any]) -> None:
    write_json(folder / "metrics.json", metrics)
    model: Any = cli.model
    results: dict[str, Any] = {d: metrics[d] for d in ("a2b", "b2a") if d in metrics}
    flat = {f"final/{k}_{d}": v for d, r in results.items() for k, v in r.items() if isinstance(v, float)}
    logger: Any = cli.trainer.logger
    settings = {"experiment": model.run.experiment or "", **model.generator.settings.to_json()}
    settings |= {"lr": model._full_lrs[0][0], **(model.run.ablation or {})}
    logger.log_hyperparams(settings, flat)
    logger.save()
    print(summary(metrics))
    if (folder / "adapter" / CARD).is_file():
        # Of the final state, as its files: the module may hold the best state by now.
        run = replace(model.run_facts, images_seen=metrics["images_seen"])
        card = AdapterCard.of(model.generator, run, metrics=results, best=metrics.get("best"))
        print(finish_adapter(folder / "adapter", card))
    print(f"run folder: {folder}")


def describe(generator: ImageTranslator, run: RunFacts) -> dict[str, Any]:
    """What a number depends on: base, data, versions."""
    return {
        "base": generator.base_description,
        "base_fingerprint": generator.base_fingerprint,
        "data": run.data,
        "rendered_data": bool(run.data_is_rendered),
        "placeholders": [],  # nothing stands in for a pretrained base any more; the key stays for readers of the file
        "preprocessing": run.preprocessing,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that scores depend on."""
    return {"python": platform.python_version(), **{p: version(p) for p in ("torch", "lightning", "torchmetrics")}}


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
