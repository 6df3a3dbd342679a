"""Runs a training: fit, test of the last state and of the best one, metrics.json."""

import math
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.utilities import rank_zero_only

from commands.cli.header import header
from commands.cli.lightning_cli import TrainCLI
from commands.cli.paths import CONFIG, RUN_FOLDER, shared_with_ranks
from commands.cli.slurm import REQUEUE_SIGNAL, requeue
from evaluation.edits import EditData
from evaluation.model_card import finish_adapter
from evaluation.summary import summary
from inference.backends import Backend
from lightning_modules.callbacks.access import scoring_best
from lightning_modules.runtime import NonFiniteLossError
from lightning_modules.signals import StopRequested, stop_signals
from metrics.scores import SCORES, log_key
from networks import ImageTranslator
from networks.checkpoints.adapter import CARD, read_checkpoint
from networks.checkpoints.card import AdapterCard, RunFacts
from storage import atomic_write, did_you_mean, lock_folder, write_json

# Packages whose models, data and callbacks log what `_check_monitors` knows, and nothing else.
LOGS_KNOWN = ("lightning", "lightning_modules", "datamodules")
Metrics = dict[str, Any]  # content of metrics.json


def run(folder: Path, arguments: list[str], experiment: str, checkpoint: Path | None = None) -> int:
    """Train, test, and write metrics.json.

    Args:
        folder: of the run, absolute.
        arguments: of LightningCLI.
        experiment: its name, for the adapter's card; where empty, that of the configuration.
        checkpoint: to resume from.

    Returns:
        The exit code: 1 where a loss was not finite, 128 + n where signal n ended the training.

    Raises:
        ValueError: the configuration cannot work; before training.
    """
    started_by_rank = RUN_FOLDER in os.environ
    with stop_signals.handled(started_by_rank), shared_with_ranks(folder):
        cli: TrainCLI | None = None
        try:
            cli = TrainCLI(folder, arguments, experiment)
            stop_signals.on_quit = partial(_end_ranks, cli.trainer)
            with lock_folder(folder) if cli.trainer.is_global_zero else nullcontext():
                with _config_written(cli) if cli.trainer.is_global_zero else nullcontext():
                    _report(cli, _train(cli, checkpoint))
        except StopRequested as stop:
            return _stopped(stop, cli, folder)
        except MisconfigurationException as error:
            raise ValueError(str(error).strip().splitlines()[0]) from error
        except NonFiniteLossError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    return 0


@contextmanager
def _config_written(cli: TrainCLI) -> Iterator[None]:
    """Context with this command's config.yaml; a resumed run's own is put back if this one is refused at the start.

    Else the next `make resume` would be refused, too.
    """
    path = cli.run_folder / CONFIG
    before = path.read_bytes() if path.is_file() else None
    cli.write_config()
    try:
        yield
    except (ValueError, MisconfigurationException):
        if before is not None and cli.saving.adapter_of < 0:  # last.ckpt is of that configuration
            with atomic_write(path) as part:
                part.write_bytes(before)
        raise


def _stopped(stop: StopRequested, cli: TrainCLI | None, folder: Path) -> int:
    """Say on one line what is saved and how to go on; ask SLURM to start the job again where it asked to stop.

    Returns:
        The exit code; 0 on a rank that another one started: Lightning kills that one where the code is not 0.
    """
    if stop_signals.started_by_rank:
        return 0
    if cli is None or cli.trainer.is_global_zero:
        seen = -1 if cli is None else cli.saving.saved_at
        state = f"after {seen:,} images, all of them saved" if seen >= 0 else "before the first batch"
        again = f"make resume RUN={folder}" if (folder / "config.yaml").is_file() else "the same command"
        job = requeue() if stop.name == REQUEUE_SIGNAL else ""
        print(f"Stopped by {stop.name} {state}. {job}Continue with: {again}", file=sys.stderr, flush=True)
    if cli is not None and _end_ranks(cli.trainer):
        sys.stdout.flush()
        os._exit(stop.exit_code)  # at once: Lightning's observer kills this process when it finds the others dead
    return stop.exit_code


def _end_ranks(trainer: Trainer) -> bool:
    """Kill the ranks that this process started; returns whether there are any."""
    launcher = trainer.strategy.launcher
    if not isinstance(launcher, _SubprocessScriptLauncher) or not launcher.procs:
        return False
    for rank in launcher.procs:
        rank.kill()
    return True


def _train(cli: TrainCLI, checkpoint: Path | None) -> Metrics:
    """Fit and test; returns the content of metrics.json."""
    _check_validation(cli)
    seen = 0 if checkpoint is None else read_checkpoint(checkpoint)["progress"]["images_seen"]
    if cli.trainer.is_global_zero:
        print(header(cli, seen), flush=True)
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    if cli.model.images_seen == seen and cli.trainer.is_global_zero:
        print(_nothing_left(cli), flush=True)
    cli.trainer.test(cli.model, cli.datamodule, verbose=False, weights_only=True)
    metrics = _last_state(cli)
    best = _best_state(cli)
    return metrics | ({"best": best} if best else {})


def _nothing_left(cli: TrainCLI) -> str:
    """A line on why a resumed run has not trained."""
    trainer, seen = cli.trainer, cli.model.images_seen
    limits = {
        "model.init_args.max_images": (seen, cli.model.max_images),
        "trainer.max_epochs": (trainer.current_epoch, trainer.max_epochs),
        "trainer.max_steps": (trainer.global_step, trainer.max_steps),
    }
    reached = [f"{k} is {end}" for k, (done, end) in limits.items() if end is not None and 0 <= end <= done]
    reached = reached or [f"trainer.max_time is {cli.config_init['trainer']['max_time']}"]
    return f"nothing left to train: {seen} images were seen and {', '.join(reached)}; a larger value extends the run"


def _chosen_by(cli: TrainCLI) -> list[ModelCheckpoint]:
    """The callbacks that keep the best checkpoint by a score."""
    return [c for c in cli.trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor]


def _check_validation(cli: TrainCLI) -> None:
    """Find out before training whether validation gives callbacks the scores that they go by.

    Raises:
        ValueError: a score is not logged, or the one that chooses the best checkpoint cannot be computed from so few
            images.
    """
    data, limit = cli.datamodule, cli.trainer.limit_val_batches
    if limit == 0:
        return
    _check_monitors(cli)
    for callback in _chosen_by(cli):
        monitor = str(callback.monitor)
        direction = monitor.rpartition("_")[2]
        if not monitor.startswith(("val/fid_", "val/kid_")) or direction not in data.directions:
            continue
        counts = [len(get(direction, "validate")) for get in (data.evaluation_set, data.reference_set)]
        at_once = data.eval_batch_size * cli.trainer.world_size
        batches = limit if isinstance(limit, int) else int(limit * math.ceil(counts[0] / at_once))
        counts[0] = min(counts[0], batches * at_once)
        if min(counts) < 2:
            raise ValueError(
                f"Validation has {counts[0]} images to translate in {direction} and {counts[1]} to compare with, and "
                f"{monitor}, which chooses the best checkpoint, needs two of each. Raise val_scenes or "
                "limit_val_batches; of a folder, add images, or leave val_A and val_B out: a tenth of the training "
                "images is held out then."
            )


def _check_monitors(cli: TrainCLI) -> None:
    """Refuse callbacks that wait for a number that is not logged: Lightning ends the run at its first validation.

    Raises:
        ValueError: names the number, and the nearest one that is logged.
    """
    callbacks, data = [*cli.trainer.callbacks], cli.datamodule  # type: ignore[attr-defined]  # set, but not declared
    if any(type(part).__module__.partition(".")[0] not in LOGS_KNOWN for part in (cli.model, data, *callbacks)):
        return  # the user's own code may log anything
    given = {
        "truth": data.has_truth,
        "captions": cli.scoring.scorer.captions is not None,
        "edits": isinstance(data, EditData) and bool(data.asked("validate")),
    }
    scores = [score.name for score in SCORES.values() if score.needs is None or given[score.needs]]
    directions = [direction for direction in data.directions if direction in cli.model.generator.directions]
    logged = ["images_seen", "epoch", "step", *(log_key("val", name, d) for d in directions for name in scores)]
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is None or monitor in logged or monitor.startswith("lr-"):  # of Lightning's LearningRateMonitor
            continue
        listed = did_you_mean(monitor, logged) or f" Logged are: {', '.join(logged)}."
        raise ValueError(
            f"{type(callback).__name__} monitors {monitor!r}, which is not logged on validation of this data.{listed}"
        )


def _last_state(cli: TrainCLI) -> Metrics:
    """Content of metrics.json for the state that training ended with, once it is tested."""
    model, throughput = cli.model, cli.throughput
    return {
        "images_seen": model.images_seen,
        "batches": model.batches_seen,
        "wall_s": throughput.wall_s,
        "seconds_per_batch": throughput.seconds_per_batch,
        "peak_memory_mb": throughput.peak_memory_mb,
        "trainable_parameters": sum(p.numel() for p in model.generator.parameters() if p.requires_grad),
        **describe(model.generator, model.run),
        **cli.scoring.results,
        **({"skipped_images": skipped} if (skipped := cli.datamodule.skipped_images()) else {}),
    }


def _best_state(cli: TrainCLI) -> Metrics | None:
    """Test the checkpoint that validation chose, if it is another state than the last; None where none was chosen.

    The module then holds that state, and callbacks its counts.
    """
    path = Path(next((c.best_model_path for c in _chosen_by(cli) if c.best_model_path), ""))
    # All ranks test or none does: the file may lie on a disk that only the first one sees.
    if not cli.trainer.strategy.reduce_boolean_decision(path.is_file()):
        return None
    seen = read_checkpoint(path)["progress"]["images_seen"]
    best = {"checkpoint": path.name, "images_seen": seen}
    if seen == cli.model.images_seen:
        return {**best, "is_last": True}
    with scoring_best():
        cli.trainer.test(cli.model, cli.datamodule, ckpt_path=path, verbose=False, weights_only=True)
    return {**best, **cli.scoring.results}


@rank_zero_only
def _report(cli: TrainCLI, metrics: Metrics) -> None:
    """Write metrics.json, TensorBoard's HParams and the adapter's card; print the scores."""
    folder, model = cli.run_folder, cli.model
    write_json(folder / "metrics.json", metrics)
    results: Metrics = {d: metrics[d] for d in ("a2b", "b2a") if d in metrics}
    scores = {f"test/{k}_{d}": v for d, r in results.items() for k, v in r.items() if isinstance(v, float)}
    settings = {"experiment": model.run.experiment or "", **model.generator.settings.to_json()}
    settings |= {"lr": model.full_rates["generator"][0], **(model.run.ablation or {})}
    cli.logger.log_settings(settings, scores)
    cli.logger.save()
    for logger in cli.trainer.loggers[1:]:  # of the user's choice
        logger.log_hyperparams(settings)
        logger.save()
    print(summary(metrics))
    if (folder / "adapter" / CARD).is_file():
        # Of the final state, as its files: the module may hold the best state by now.
        facts = replace(model.run_facts, images_seen=metrics["images_seen"])
        card = AdapterCard.of(model.generator, facts, metrics=results or None, best=metrics.get("best"))
        print(finish_adapter(folder / "adapter", card))
    print(f"run folder: {folder}")


def describe(model: ImageTranslator | Backend, run: RunFacts) -> Metrics:
    """Facts that scores depend on: base, data, versions."""
    return {
        "base": model.base_description,
        "base_fingerprint": model.base_fingerprint,
        "data": run.data,
        "rendered_data": bool(run.data_is_rendered),
        "placeholders": [],  # always empty; the key stays for readers of the file
        "preprocessing": run.preprocessing,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that scores depend on."""
    return {"python": platform.python_version(), **{p: version(p) for p in ("torch", "lightning", "torchmetrics")}}
