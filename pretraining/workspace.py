"""The work folder of `make pocket`: settings, the record of each stage, training with resume, weights on disk."""

import json
import logging
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lightning_modules.quiet import silence_libraries
from networks.one_step.bases import POCKET
from pretraining.batches import PretrainingData, StepBatches
from pretraining.captioned_scenes import CaptionedScenes, render_scenes
from pretraining.settings import flat
from pretraining.stages import PeriodicCheckpoint, Stage, StageOptions
from pretraining.stages.stage import LOG_EVERY, BatchT
from storage import atomic_write, write_json

FOLLOWS_SOURCES = ("renderer", "vocabulary")  # inputs defined by source code: a change does not redo a finished stage
Module = TypeVar("Module", bound=nn.Module)


@dataclass
class Workspace:
    """Settings and folders of one run of `make pocket`.

    Attributes:
        work: folder of caches, checkpoints and results.
        out: folder of the finished base.
        settings: the settings, as in pretraining/pocket.yaml.
        again: whether a stage whose settings changed is redone.
        device: device of everything but the training itself: encoding, sampling, measuring.
    """

    work: Path
    out: Path
    settings: DictConfig
    again: bool
    device: torch.device

    @property
    def architecture(self) -> Path:
        """Folder of the parts' configs."""
        return Path(self.settings.architecture or POCKET)

    def config(self, part: str) -> dict[str, Any]:
        """Read the config of a part: "vae", "unet", "text_encoder" or "scheduler"."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        path = self.architecture / part / name
        if not path.is_file():
            raise FileNotFoundError(f"No architecture in {self.architecture}: {path} is missing.")
        return json.loads(path.read_text())

    def section(self, name: str) -> dict[str, Any]:
        """A copy of the settings of a stage, or of another section, as plain values."""
        found = OmegaConf.to_container(self.settings[name], resolve=True)
        assert isinstance(found, dict)
        return {str(key): value for key, value in found.items()}

    def stage_options(self, name: str) -> tuple[StageOptions, dict[str, Any]]:
        """The settings of a stage: those that every stage has, and the others."""
        others = self.section(name)
        common = {key: others.pop(key) for key in ("steps", "warmup", "grid_every")}
        return StageOptions(seed=self.settings.seed, **common), others

    def record(self, stage: str) -> dict[str, Any]:
        """The content of a stage's stage.json; empty before the stage begins."""
        path = self.work / stage / "stage.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def finished(self, stage: str) -> dict[str, Any]:
        """The record of a finished stage.

        Raises:
            FileNotFoundError: the stage is not finished.
        """
        record = self.record(stage)
        if not record.get("finished"):
            raise FileNotFoundError(
                f"{self.work / stage} holds no finished {stage} stage: run it first (--stage {stage})."
            )
        return record

    def images(self, first: int = 0, count: int | None = None) -> CaptionedScenes:
        """Rendered images, by default those of training; see `render_scenes`."""
        data = self.settings.data
        return render_scenes(
            self.work / "pictures", data.count if count is None else count, data.size, first, self.settings.workers
        )


@contextmanager
def run_stage(workspace: Workspace, name: str, inputs: Mapping[str, object]) -> Iterator[dict[str, Any] | None]:
    """Record the begin and the end of a stage around the block that does its work.

    Args:
        workspace: settings and folders.
        name: name of the stage and of its section in the settings.
        inputs: what else the stage depends on, by name.

    Yields:
        A dict to fill with the results; None where the stage is finished and the block must do nothing.

    Raises:
        ValueError: the stage was begun with other settings, and `workspace.again` is not set.
    """
    folder = workspace.work / name
    wanted = {"seed": workspace.settings.seed, **flat(workspace.section(name)), **inputs}
    record = workspace.record(name)
    if record:
        changed = differences(record["settings"], wanted)
        if record["finished"] and {key for key, _ in changed} <= set(FOLLOWS_SOURCES):
            changed = []
        if changed and not workspace.again:
            lines = ", ".join(f"{key}: {change}" for key, change in changed)
            raise ValueError(
                f"Stage {name} in {folder} was made with other settings ({lines}). Add --again to redo it."
            )
        if changed:
            shutil.rmtree(folder)
        elif record["finished"]:
            print(f"{name}: finished ({record['steps']} steps, {record['seconds'] / 60:.1f} min)")
            yield None
            return
    begun = {"finished": False, "settings": wanted, "device": device_name(workspace.device), "versions": versions()}
    write_json(folder / "stage.json", begun)
    seed_everything(workspace.settings.seed, verbose=False)
    results: dict[str, Any] = {}
    yield results
    write_json(folder / "stage.json", {**begun, "finished": True, **results})


def differences(old: Mapping[str, object], new: Mapping[str, object]) -> list[tuple[str, str]]:
    """Names of the settings that differ, each with "old -> new"; the interval of image grids is left out."""
    keys = [key for key in {**old, **new} if key != "grid_every" and old.get(key) != new.get(key)]
    return [(key, f"{old.get(key)} -> {new.get(key)}") for key in keys]


def fit(workspace: Workspace, name: str, module: Stage[BatchT], batches: StepBatches[BatchT]) -> dict[str, Any]:
    """Train a stage, from its checkpoint where there is one; returns its steps and seconds.

    Raises:
        InterruptedError: training was stopped before its last step.
    """
    silence_libraries()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    checkpoint = workspace.work / name / "last.ckpt"
    trainer = Trainer(
        accelerator="cpu" if workspace.device.type == "cpu" else "auto",
        devices=1,
        max_epochs=1,
        logger=TensorBoardLogger(workspace.work, name=f"tensorboard/{name}", version=""),
        callbacks=[PeriodicCheckpoint(checkpoint, workspace.settings.checkpoint_every)],
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=LOG_EVERY,
    )
    resumed = checkpoint if checkpoint.is_file() else None
    trainer.fit(module, PretrainingData(batches), ckpt_path=resumed, weights_only=True)
    if module.steps_done < module.steps:
        raise InterruptedError(f"Stage {name} stopped after {module.steps_done} of {module.steps} steps; run it again.")
    return {"steps": module.steps, "seconds": module.seconds}


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, atomically."""
    with atomic_write(path) as part:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, part)


def load_weights(path: Path, module: Module) -> Module:
    """Load a state dict that `save_tensors` wrote into a module; returns the module, frozen."""
    module.load_state_dict(load_file(path))
    module.requires_grad_(False).eval()
    return module


def to_device(module: Module, device: torch.device) -> Module:
    """Move a module and return it; diffusers and transformers declare no types for their own `to`."""
    nn.Module.to(module, device)
    return module


def device_name(device: torch.device) -> str:
    """The device as the records name it: what the seconds of a stage were measured on."""
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions() -> dict[str, str]:
    """Versions of the packages that the weights depend on."""
    packages = ("torch", "lightning", "diffusers", "transformers", "numpy")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
