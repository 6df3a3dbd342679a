"""LightningCLI with OmegaConf interpolation, the callbacks of every run in order, and errors that fit on a line."""

import re
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings
from lightning import Callback, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.trainer.connectors.accelerator_connector import _PRECISION_INPUT

from commands.cli.keys import CALLBACKS
from commands.cli.processes import check_processes, devices_of
from commands.cli.trust import refusal
from datamodules import TranslationData
from lightning_modules import mean_gradients
from lightning_modules.base import TranslationModule, check_precision
from lightning_modules.callbacks import (
    Evaluation,
    MissingValidation,
    Progress,
    RunFolder,
    Throughput,
)
from lightning_modules.checkpoint_io import WholeCheckpoints
from lightning_modules.event_file import EventLogger
from lightning_modules.quiet import silence_libraries
from networks.precision import has_bfloat16, is_large
from storage import atomic_write

# Interpolation then holds in one file, across files and under command-line overrides.
set_parsing_settings(omegaconf_absolute_to_relative_paths=True)

# Lines of jsonargparse's messages that frame the mistake.
FRAME = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Given value type:",
    "Given value: Nested",
    "Expected a <class 'None",
    # What a class could also have been given as.
    "Expected a path but",
    "Subclass types expect one of",
    "a class path (str)",
    "a dict with",
)


class ExactTrainer(Trainer):
    """Lightning's Trainer with limits that distinguish 1 (one batch) from 1.0 (all of them), and ``precision: auto``.

    Lightning annotates them ``Union[int, float]``.  Python hands out one object for that and for ``Union[float, int]``,
    whichever was written first anywhere, and a parser that tries float first reads 1 as 1.0.

    Args:
        limit_train_batches: see `lightning.Trainer`.
        limit_val_batches: see `lightning.Trainer`.
        limit_test_batches: see `lightning.Trainer`.
        overfit_batches: see `lightning.Trainer`.
        precision: see `lightning.Trainer`; "auto" is replaced by `TrainCLI`, which knows the network.
        **others: see `lightning.Trainer`.
    """

    def __init__(
        self,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        precision: _PRECISION_INPUT | Literal["auto"] | None = None,
        **others: Any,
    ) -> None:
        super().__init__(
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            overfit_batches=overfit_batches,
            precision=precision if precision != "auto" else None,
            **others,
        )


class TrainCLI(LightningCLI):
    """Builds model, data and trainer of one run from YAML and command line; runs nothing.

    Args:
        run_folder: ``runs/EXP/BASE/version_N``.
        args: arguments of LightningCLI: ``--config`` and overrides.
        experiment: its name, for the adapter's card.

    Attributes:
        logger: writes TensorBoard's events into the run folder.
        scoring: the callback that scores translations.
        throughput: the callback that measures time and memory.
        saving: the callback that writes last.ckpt and adapter/.
    """

    model: TranslationModule
    datamodule: TranslationData
    scoring: Evaluation
    throughput: Throughput
    saving: RunFolder

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
                parser_kwargs={"parser_mode": "omegaconf+", "exit_on_error": False, "allow_abbrev": False},
            )
        except ArgumentError as error:
            raise ValueError(explain(str(error))) from error

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the callbacks that a list in a YAML cannot remove, and hand the data's prompts to the model."""
        parser.add_argument("--experiment", default="", help="its name, for the adapter's card")
        for section, class_path in CALLBACKS.items():
            module, _, name = class_path.rpartition(".")
            parser.add_lightning_class_args(getattr(import_module(module), name), section)
        parser.link_arguments("data", "model.init_args.prompts", compute_fn=_prompts, apply_on="instantiate")

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; errors of these classes are raised unchanged.

        Raises:
            ValueError: an argument is wrong.
        """
        try:
            super().instantiate_classes()
        except (ValueError, ArgumentError) as error:
            cause = _from_the_class(error)
            raise (ValueError(explain(str(error))) if cause is None else cause) from error
        # Not a link: the parser would read a description with a colon as YAML.
        self.model.run = replace(
            self.model.run,
            experiment=self.experiment,
            data=self.datamodule.description,
            data_is_rendered=self.datamodule.is_rendered,
            preprocessing=self.datamodule.preprocessing,
            resolution=self.datamodule.resolution,
            edits=self.datamodule.edits or None,
        )

    def before_instantiate_classes(self) -> None:
        """Record the experiment; choose the strategy where the user did not.

        Raises:
            ValueError: ``fast_dev_run``, with which Lightning writes no run folder; a precision or a strategy that
                cannot work; or too many processes.
        """
        self.experiment = self.config["experiment"] = self.experiment or self.config["experiment"]
        trainer = self.config["trainer"]
        if trainer["fast_dev_run"]:
            raise ValueError(
                "fast_dev_run keeps no run folder, and a run here is one. To see everything work once: "
                "--model.init_args.max_images=4 --trainer.val_check_interval=2 --trainer.limit_val_batches=2"
            )
        check_precision(trainer["precision"])  # on a CPU Lightning would take another one without a word
        self.check_machine()
        strategy = str(trainer["strategy"])
        if strategy.startswith("ddp") and not strategy.endswith("_true"):
            raise ValueError(
                f"trainer.strategy={strategy} wants every parameter in every loss, and generator and discriminators "
                f"take turns: leave it out, and several devices get {mean_gradients.NAME}."
            )
        if strategy == "auto" and (trainer["num_nodes"] > 1 or devices_of(trainer) > 1):
            trainer["strategy"] = mean_gradients.NAME

    def check_machine(self) -> None:
        """Refuse more processes than this machine has room for.

        Raises:
            ValueError: there are too few cores or GPUs.
        """
        check_processes(self.config["trainer"], self.config["data"].get("init_args.num_workers"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer, logging into the run folder and to the user's loggers, with the callbacks of `callbacks`."""
        root, name, version = self.run_folder.parent.parent.parent, *self.run_folder.parts[-3:-1]
        settings = dict(self.config_init["trainer"])
        if settings["precision"] == "auto":
            # In config.yaml too: a run that is resumed elsewhere stays as it is.
            settings["precision"] = self.config["trainer"]["precision"] = self._fastest_precision(
                settings["accelerator"]
            )
        # `Progress` counts as a progress bar, so Lightning adds none.
        settings["enable_progress_bar"] = settings["enable_progress_bar"] is not False
        settings["callbacks"] = self.callbacks(settings["callbacks"], settings["enable_progress_bar"])
        self.logger = EventLogger(root, f"{name}/{version}", self.run_folder.name, default_hp_metric=False)
        settings["logger"] = [self.logger, *_loggers(settings["logger"])]  # the first one names the run folder
        # In a SLURM job, Lightning restores hpc_ckpt_*.ckpt of this folder, whoever wrote it.
        settings["default_root_dir"] = str(self.run_folder)
        plugins = settings["plugins"] or []
        settings["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), WholeCheckpoints()]
        settings["enable_model_summary"] = bool(settings["enable_model_summary"])  # a table for those who ask for it
        return ExactTrainer(**settings | kwargs)

    def _fastest_precision(self, accelerator: object) -> str:
        """bf16-mixed for large networks where the hardware computes in it, else 32-true."""
        on_gpu = accelerator != "cpu" and torch.cuda.is_available()
        fast = is_large(self.model.generator) and has_bfloat16(torch.device("cuda" if on_gpu else "cpu"))
        return "bf16-mixed" if fast else "32-true"

    def write_config(self) -> None:
        """Write config.yaml, which the run is resumed from, before anything else is in the run folder."""
        with atomic_write(self.run_folder / "config.yaml") as part:
            part.write_text(self.parser.dump(self.config, skip_unset=False))

    def callbacks(self, chosen: list[Callback] | Callback | None, progress: bool) -> list[Callback]:
        """Every callback of a run, in the order in which Lightning calls them; it moves checkpoints to the end.

        Args:
            chosen: those of ``trainer.callbacks``.
            progress: whether to show progress.
        """
        chosen = chosen if isinstance(chosen, list) else [chosen] if chosen is not None else []
        self.scoring, self.throughput = self.config_init["evaluation"], self.config_init["throughput"]
        self.saving = self.config_init["checkpoints"]
        return [
            MissingValidation(),
            *([Progress()] if progress else []),
            self.config_init["collapse_alarm"],
            *chosen,
            self.throughput,
            self.scoring,
            self.config_init["image_grid"],
            self.saving,  # after ModelCheckpoint: last.ckpt holds the choice of the best checkpoint
        ]


class ParsedOnly(TrainCLI):
    """Parses configuration and command line, and builds nothing."""

    def _set_seed(self) -> None:
        """Leave the random generators alone."""

    def instantiate_classes(self) -> None:
        """Do nothing: only the parsed configuration is needed."""

    def check_machine(self) -> None:
        """Do nothing: the training may run on another machine."""


def build_section(kind: type, key: str, settings: Mapping[str, object]) -> object:
    """Build one section of a configuration, its values checked as a training checks them.

    Args:
        kind: class of the result; with a ``class_path`` among the settings, the class that this one must extend.
        key: of the section, for messages.
        settings: content of the section.

    Raises:
        ValueError: a setting is unknown or has a value that the class does not take.
    """
    parser = ArgumentParser(exit_on_error=False)
    add = parser.add_subclass_arguments if "class_path" in settings else parser.add_class_arguments
    add(kind, key)
    try:
        built: object = parser.instantiate_classes(parser.parse_object({key: settings}))[key]
    except ArgumentError as error:
        raise ValueError(explain(str(error))) from error
    except ValueError as error:
        cause = _from_the_class(error)
        raise (ValueError(explain(str(error))) if cause is None else cause) from error
    return built


def _loggers(chosen: Logger | Iterable[Logger] | bool | None) -> list[Logger]:
    """Those that ``trainer.logger`` names beside the run folder's own."""
    if isinstance(chosen, bool) or chosen is None:
        return []
    return [chosen] if isinstance(chosen, Logger) else [*chosen]


def _prompts(data: TranslationData) -> dict[str, str]:
    return data.prompts


def _from_the_class(error: BaseException) -> BaseException | None:
    """The outermost exception of a chain that the parser did not raise itself; None where it raised all."""
    link: BaseException | None = error
    while link is not None:
        if "jsonargparse" not in traceback.extract_tb(link.__traceback__)[-1].filename:
            return link
        link = link.__cause__ or link.__context__
    return None


def explain(message: str) -> str:
    """A message of jsonargparse on one line: the path of keys, and what follows the last of them.

    The library nests one block for each key and each type it tried; the innermost key's block says what is wrong.
    """
    lines = message.splitlines()
    found = ((number, re.search(r'arser key "(.+?)":', line)) for number, line in enumerate(lines))
    keys = [(number, match[1]) for number, match in found if match]
    if not keys:
        return " ".join(message.partition("\nGiven value")[0].split())[:400]
    start = keys[-1][0]
    what = [lines[start].partition(f'"{keys[-1][1]}":')[2], *_block(lines, start)]
    words = [line.strip(" -").partition(". Got value: Namespace")[0] for line in what]
    said = "; ".join(word for word in words if word and not word.startswith(FRAME)).replace(":;", ":")
    said = re.sub(r"<class '(.+?)'>|typing\.", r"\1", said)
    said = said.replace("Expected a dot import path string", "Expected the name of a class, package.module.Name")
    if denied := re.search(r"Importing '(.+?)' is not allowed", said):
        said = f"{denied[1]!r} is named, {refusal(denied[1])}".rstrip(".")
    hint = "; put the folder of your own code on PYTHONPATH" if "No module named" in said else ""
    return f"Configuration key {'.'.join(key for _, key in keys)!r}: {said[:400]}{hint}."


def _block(lines: list[str], start: int) -> Iterator[str]:
    """The lines below one that are indented further."""
    indent = len(lines[start]) - len(lines[start].lstrip())
    for line in lines[start + 1 :]:
        if line and len(line) - len(line.lstrip()) <= indent:
            return
        yield line
