"""LightningCLI with OmegaConf interpolation, the callbacks of every run, and errors that fit on a line."""

import inspect
import re
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentError, set_parsing_settings
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

import datamodules
import lightning_modules
import networks
from commands.cli.recipes import EXPERIMENTS
from datamodules import TranslationData
from lightning_modules.base import TranslationModule
from lightning_modules.callbacks import (
    CollapseAlarm,
    Evaluation,
    FinalValidation,
    ImageGrid,
    Progress,
    RunFolder,
    Throughput,
)
from lightning_modules.quiet import silence_libraries
from storage import did_you_mean

# Interpolation then holds in one file, across files and under command-line overrides.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)

DDP = "ddp_find_unused_parameters_true"  # two optimisers take turns: each backward leaves the other's weights unused
UNKNOWN_KEY = re.compile(
    r"nrecognized arguments: --([\w.]+)|Option '([\w.]+)' is not accepted|[Kk]ey [\"']?([\w.]+)[\"']? is not expected"
)


class ExactTrainer(Trainer):
    """Lightning's Trainer, whose limits tell 1 (one batch) from 1.0 (all of them).

    Lightning annotates them ``Union[int, float]``.  Python hands out one object for that and for ``Union[float, int]``,
    whichever was written first anywhere, and a parser that tries float first reads 1 as 1.0.

    Args:
        limit_train_batches: see `lightning.Trainer`.
        limit_val_batches: see `lightning.Trainer`.
        limit_test_batches: see `lightning.Trainer`.
        overfit_batches: see `lightning.Trainer`.
        **others: see `lightning.Trainer`.
    """

    def __init__(
        self,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        **others: Any,
    ) -> None:
        super().__init__(
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            overfit_batches=overfit_batches,
            **others,
        )


class TrainCLI(LightningCLI):
    """Builds model, data and trainer of one run from YAML and command line; runs nothing.

    Args:
        run_folder: ``runs/EXP/BASE/version_N``.
        args: arguments of LightningCLI: ``--config FILE`` and overrides.
        experiment: its name, for the adapter's card.
    """

    def __init__(self, run_folder: Path, args: list[str], experiment: str = "") -> None:
        self.run_folder, self.experiment = run_folder, experiment
        silence_libraries()
        try:
            super().__init__(
                model_class=TranslationModule,
                datamodule_class=TranslationData,
                trainer_class=ExactTrainer,
                subclass_mode_model=True,
                subclass_mode_data=True,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                run=False,
                args=args,
                save_config_kwargs={"overwrite": True},
                parser_kwargs={"parser_mode": "omegaconf+", "exit_on_error": False, "allow_abbrev": False},
            )
        except ArgumentError as error:
            raise ValueError(_explain(str(error))) from error

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks that no overlay's list can lose, and what the data tells the model."""
        parser.add_lightning_class_args(Throughput, "throughput")
        parser.add_lightning_class_args(Evaluation, "evaluation")
        parser.add_lightning_class_args(ImageGrid, "image_grid")
        parser.add_lightning_class_args(CollapseAlarm, "collapse_alarm")
        parser.link_arguments("data", "model.init_args.prompts", compute_fn=_prompts, apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; what a class says of its arguments comes through unwrapped."""
        try:
            super().instantiate_classes()
        except (ValueError, ArgumentError) as error:
            raise _from_the_class(error) from error
        # Not a link: the parser would read a description with a colon as YAML.
        data: TranslationData = self.datamodule
        self.model.run = replace(
            self.model.run,
            experiment=self.experiment,
            data=data.description,
            data_is_rendered=data.is_rendered,
            preprocessing=data.preprocessing,
        )

    def before_instantiate_classes(self) -> None:
        """Choose the strategy where the user did not: plain DDP cannot alternate two optimisers."""
        trainer = self.config["trainer"]
        if trainer["fast_dev_run"]:
            raise ValueError(
                "fast_dev_run keeps no run folder, and a run here is one. To see everything work once: "
                "--model.init_args.max_images=4 --trainer.val_check_interval=2 --trainer.limit_val_batches=2"
            )
        if trainer["strategy"] == "auto" and _more_than_one(trainer):
            trainer["strategy"] = DDP

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, logging into the run folder and nowhere else."""
        root, name, version = self.run_folder.parent.parent.parent, *self.run_folder.parts[-3:-1]
        logger = TensorBoardLogger(root, f"{name}/{version}", self.run_folder.name, default_hp_metric=False)
        last: Any = RunFolder(str(self.run_folder))
        settings = self.config_init["trainer"]
        shown = settings["enable_progress_bar"] is not False
        trainer = super().instantiate_trainer(
            logger=logger,
            enable_model_summary=bool(settings["enable_model_summary"]),  # Lightning's table for those who ask for it
            enable_progress_bar=False,  # `Progress` is added below
            **kwargs,
        )
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        alarms = [c for c in callbacks if isinstance(c, CollapseAlarm)]
        # The alarm's counts of a validation go into last.ckpt; a best checkpoint is never newer than that.
        first = [FinalValidation(), *([Progress()] if shown else [])]
        callbacks[:] = [*first, *alarms, last, *(c for c in callbacks if c not in alarms)]
        return trainer

    @property
    def scoring(self) -> Evaluation:
        """What measures the translations."""
        return next(c for c in self.trainer.callbacks if isinstance(c, Evaluation))  # type: ignore[attr-defined]


class ParsedOnly(TrainCLI):
    """Parses configuration and command line, and builds nothing."""

    def _set_seed(self) -> None:
        """Leave the random generators alone."""

    def instantiate_classes(self) -> None:
        """Leave it at the parsed configuration."""


def _prompts(data: TranslationData) -> dict[str, str]:
    return data.prompts


def _more_than_one(trainer: Any) -> bool:
    devices = trainer["devices"]
    if trainer["num_nodes"] > 1:
        return True
    if isinstance(devices, list):
        return len(devices) > 1
    if str(devices) in ("auto", "-1"):
        return trainer["accelerator"] != "cpu" and torch.cuda.device_count() > 1
    if "," in str(devices):  # cards by number; "3," is one
        return sum(bool(part.strip()) for part in str(devices).split(",")) > 1
    return str(devices).isdigit() and int(devices) > 1


def _from_the_class(error: BaseException) -> BaseException:
    """The outermost exception of a chain that the parser did not raise itself."""
    link: BaseException | None = error
    while link is not None:
        if "jsonargparse" not in traceback.extract_tb(link.__traceback__)[-1].filename:
            return link
        link = link.__cause__ or link.__context__
    return error


def _explain(message: str) -> str:
    """The gist of a parser error on one line: which key, and the nearest one that exists; which value, and its type."""
    unknown = UNKNOWN_KEY.search(message)
    if unknown:
        key = next(group for group in unknown.groups() if group)
        known = set(_known_keys())
        wrong = next((part for part in key.split(".") if part not in known), key)
        hint = did_you_mean(wrong, known)
        return f"Configuration key {key!r} is not known.{hint} The keys in use are those of {EXPERIMENTS}."
    keys = re.findall(r'arser key "([\w.]+)"', message)
    if not keys:
        return " ".join(message.split())[:400]
    # jsonargparse reports from the outside in; what follows the last key is about the value.
    inner = message.rpartition(f'arser key "{keys[-1]}"')[2]
    wanted = [w for w in re.findall(r"Expected an? (.+?)(?:\. Got|$)", inner, re.M) if "NoneType" not in w]
    value = re.search(r"(?:Got value|Given value): (.+)", inner)
    if "not accessible" in inner and value:
        name = re.sub(r"NestedArg\(.*val='(.+)'\)", r"\1", value[1])
        return f"Configuration key {'.'.join(keys)!r} names {name!r}, and there is no such class."
    if wanted and value:
        kinds = " or ".join(dict.fromkeys(re.sub(r"<class '(.+)'>|typing\.", r"\1", w) for w in wanted))
        return f"Configuration key {'.'.join(keys)!r} cannot be {value[1]!r}: expected {kinds}."
    return f"Configuration key {'.'.join(keys)!r}: {' '.join(inner.split())[:300]}"


def _known_keys() -> Iterator[str]:
    for path in EXPERIMENTS.rglob("*.yaml"):
        stack: list[Any] = [yaml.safe_load(path.read_text())]
        while stack:
            node = stack.pop()
            if isinstance(node, dict):
                yield from map(str, node)
                stack.extend(node.values())
    classes = [Trainer, *_classes(networks), *_classes(datamodules), *_classes(lightning_modules)]
    for cls in [*classes, *_classes(lightning_modules.callbacks)]:
        yield from inspect.signature(cls).parameters


def _classes(package: Any) -> list[type]:
    return [value for name in package.__all__ if inspect.isclass(value := getattr(package, name))]
