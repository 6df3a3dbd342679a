"""Where `make pocket` works: settings, the record of each stage, training with resume, weights on disk."""

import json
import logging
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import load_file, save_file
from torch import nn

from lightning_modules.quiet import silence_libraries
from networks.one_step.bases import POCKET
from pretraining.batches import PretrainingData, StepBatches
from pretraining.captioned_scenes import CaptionedScenes, render_scenes
from pretraining.stages import KeepCheckpoint, Stage
from storage import atomic_write, write_json

FOLLOWS_SOURCES = ("renderer", "vocabulary")  # inputs that edits of the source change; a finished stage stays finished


@dataclass
class Workshop:
    """Where the base is made.

    Attributes:
        work: folder of caches, checkpoints and results.
        out: where the finished base goes.
        settings: as in experiments/pretraining/pocket.yaml.
        again: whether a stage of which a setting changed is done anew.
        device: for what is not trained: encoding, drawing, measuring.
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
        """A part's config as it is on disk."""
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        path = self.architecture / part / name
        if not path.is_file():
            raise FileNotFoundError(f"No architecture in {self.architecture}: {path} is missing.")
        return json.loads(path.read_text())

    def record(self, stage: str) -> dict[str, Any]:
        """What stage.json says; empty before the stage begins."""
        path = self.work / stage / "stage.json"
        return json.loads(path.read_text()) if path.is_file() else {}

    def finished(self, stage: str) -> dict[str, Any]:
        """The record of a stage that must be finished.

        Raises:
            FileNotFoundError: it is not.
        """
        record = self.record(stage)
        if not record.get("finished"):
            raise FileNotFoundError(
                f"{self.work / stage} holds no finished {stage} stage: run it first (--stage {stage})."
            )
        return record

    def pictures(self, first: int = 0, count: int | None = None) -> CaptionedScenes:
        """Rendered pictures; the training ones by default."""
        data = self.settings.data
        return render_scenes(
            self.work / "pictures", data.count if count is None else count, data.size, first, self.settings.workers
        )


@contextmanager
def stage(shop: Workshop, name: str, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any] | None]:
    """Run the body unless the stage is finished: it gets a dict for its results, or None where nothing is to be done.

    Args:
        shop: the workshop.
        name: of the stage and its section in the settings.
        inputs: what else the stage depends on, by name.

    Raises:
        ValueError: the stage was begun with other settings, and nobody said that it be done again.
    """
    folder = shop.work / name
    section: Any = OmegaConf.to_container(shop.settings[name], resolve=True)
    wanted = {"seed": shop.settings.seed, **flat(section), **inputs}
    record = shop.record(name)
    if record:
        changed = differences(record["settings"], wanted)
        if record["finished"] and {key for key, _ in changed} <= set(FOLLOWS_SOURCES):
            changed = []
        if changed and not shop.again:
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
    begun = {"finished": False, "settings": wanted, "device": device_name(shop.device), "versions": versions()}
    write_json(folder / "stage.json", begun)
    seed_everything(shop.settings.seed, verbose=False)
    results: dict[str, Any] = {}
    yield results
    write_json(folder / "stage.json", {**begun, "finished": True, **results})


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names of settings that differ, each with "old -> new"; how often pictures are shown does not count."""
    keys = [key for key in {**old, **new} if key != "grid_every" and old.get(key) != new.get(key)]
    return [(key, f"{old.get(key)} -> {new.get(key)}") for key in keys]


def fit(shop: Workshop, name: str, module: Stage, batches: StepBatches) -> dict[str, Any]:
    """Train from the stage's checkpoint or from the start; returns steps and seconds.

    Raises:
        InterruptedError: training was stopped before its last step.
    """
    silence_libraries()
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    checkpoint = shop.work / name / "last.ckpt"
    trainer = Trainer(
        accelerator="cpu" if shop.device.type == "cpu" else "auto",
        devices=1,
        max_epochs=1,
        logger=TensorBoardLogger(shop.work, name=f"tensorboard/{name}", version=""),
        callbacks=[KeepCheckpoint(checkpoint, shop.settings.checkpoint_every)],
        enable_checkpointing=False,
        enable_model_summary=False,
        log_every_n_steps=10,
    )
    resumed = checkpoint if checkpoint.is_file() else None
    trainer.fit(module, PretrainingData(batches), ckpt_path=resumed, weights_only=True)
    if module.steps_done < module.steps:
        raise InterruptedError(f"Stage {name} stopped after {module.steps_done} of {module.steps} steps; run it again.")
    return {"steps": module.steps, "seconds": module.seconds}


def save_weights(path: Path, module: nn.Module) -> None:
    """Write a state dict as safetensors, whole or not at all."""
    with atomic_write(path) as part:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in module.state_dict().items()}, part)


def load_weights(path: Path, module: Any) -> Any:
    """Fill a module from `save_weights`; returns it frozen."""
    module.load_state_dict(load_file(path))
    return module.requires_grad_(False).eval()


def device_name(device: torch.device) -> str:
    """What a time was measured on."""
    if device.type == "cpu":
        return f"CPU, {torch.get_num_threads()} threads"
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def versions() -> dict[str, str]:
    """Of what the result depends on."""
    packages = ("torch", "lightning", "diffusers", "transformers", "numpy")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}
