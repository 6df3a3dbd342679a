"""LightningCLI with OmegaConf interpolation, the callbacks of every run, and errors that fit on a line."""

import difflib
import inspect
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch.callbacks
import torch
import yaml
from jsonargparse import ArgumentError, set_parsing_settings
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

import datamodules
import lightning_modules
import networks
from commands.experiments import EXPERIMENTS
from datamodules.base import TranslationData
from lightning_modules.base import TranslationModule
from lightning_modules.callbacks import CollapseAlarm, Evaluation, ImageGrid, RunFolder, Throughput

# Interpolation then holds in one file, across files and under command-line overrides.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)

DDP = "ddp_find_unused_parameters_true"  # two optimisers take turns: each backward leaves the other's weights unused


class TrainCLI(LightningCLI):
    """Builds model, data and trainer of one run from YAML and command line; runs nothing.

    Args:
        run_folder: ``runs/EXP/BASE/version_N``.
        args: arguments of LightningCLI: ``--config FILE`` and overrides.
    """

    def __init__(self, run_folder: Path, args: list[str]) -> None:
        self.run_folder = run_folder
        try:
            super().__init__(
                model_class=TranslationModule,
                datamodule_class=TranslationData,
                subclass_mode_model=True,
                subclass_mode_data=True,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                run=False,
                args=args,
                save_config_kwargs={"overwrite": True},
                parser_kwargs={"parser_mode": "omegaconf+", "exit_on_error": False},
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
        parser.link_arguments("data", "model.init_args.card", compute_fn=_card, apply_on="instantiate")

    def before_instantiate_classes(self) -> None:
        """Choose the strategy where the user did not: plain DDP cannot alternate two optimisers."""
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # two cores are two cores
        trainer = self.config["trainer"]
        if trainer["strategy"] == "auto" and _more_than_one(trainer):
            trainer["strategy"] = DDP

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, logging into the run folder and nowhere else."""
        root, name, version = self.run_folder.parent.parent.parent, *self.run_folder.parts[-3:-1]
        logger = TensorBoardLogger(root, f"{name}/{version}", self.run_folder.name, default_hp_metric=False)
        last: Any = RunFolder(str(self.run_folder))
        trainer = super().instantiate_trainer(logger=logger, **kwargs)
        # Before ModelCheckpoint, so that a best checkpoint is never newer than last.ckpt.
        trainer.callbacks.insert(0, last)  # type: ignore[attr-defined]
        return trainer


def _prompts(data: TranslationData) -> dict[str, str]:
    return data.prompts


def _card(data: TranslationData) -> dict[str, Any]:
    return {"data": data.description, "data_is_placeholder": data.is_placeholder, "preprocessing": data.preprocessing}


def _more_than_one(trainer: Any) -> bool:
    devices = trainer["devices"]
    if trainer["num_nodes"] > 1:
        return True
    if isinstance(devices, list):
        return len(devices) > 1
    if str(devices) in ("auto", "-1"):
        return trainer["accelerator"] != "cpu" and torch.cuda.device_count() > 1
    return str(devices).isdigit() and int(devices) > 1


def _explain(message: str) -> str:
    """The gist of a parser error: which key, and the nearest one that exists."""
    unknown = re.search(r"(?:Option|Key|key|Unrecognized arguments:|unrecognized arguments:)\s+'?(?:--)?([\w.]+)'?[^\n]*?(?:not accepted|not expected|is not|$)", message)
    wrong_key = re.search(r"Unrecognized arguments: --([\w.]+)|Option '([\w.]+)' is not accepted|[Kk]ey \"?'?([\w.]+)\"?'? is not expected", message)
    match = wrong_key or (unknown if "not accepted" in message or "nrecognized" in message else None)
    if match:
        key = next(group for group in match.groups() if group)
        leaf = key.split(".")[-1]
        near = difflib.get_close_matches(leaf, set(_known_keys()), n=1, cutoff=0.6)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"Configuration key {key!r} is not known.{hint} See `make help` and the files of {EXPERIMENTS}."
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    keyed = next((line for line in lines if "arser key" in line), "")
    # The last line that is about a value says the most: jsonargparse ends with the innermost reason.
    reason = next((line for line in reversed(lines) if "xpected" in line or "alue" in line), lines[-1])
    return keyed[:200] if keyed and keyed == reason else f"{keyed[:160]} {reason[:240]}".strip()


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
