"""Trained runs, crippled and healthy: two small convolutions per direction, between day and a blue dusk."""

import functools
import math
import warnings
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch
from lightning import LightningDataModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from datamodules.batches import EvaluationBatch, UnpairedBatch
from datamodules.scenes import render
from lightning_modules import CycleGANTurbo
from lightning_modules.callbacks import CollapseAlarm, Evaluation
from lightning_modules.callbacks.access import scoring_best
from lightning_modules.unpaired import UnpairedWeights
from networks import ImageTranslator, PatchDiscriminator
from networks.resnet import NoWords

from .conftest import PROMPTS

SIZE, TRAIN, TEST, BATCH = 32, 32, 16, 4


class Recolour(ImageTranslator):
    """Adds two convolutions to the picture, nothing at first; a blind one does not see the picture."""

    base_name = base_fingerprint = base_description = "recolour"

    def __init__(self, blind):
        super().__init__()
        self.settings, self.prompts, self.encode_prompts, self.blind = {}, {}, NoWords(), blind
        self.maps = nn.ModuleDict()
        for direction in ("a2b", "b2a"):
            last = nn.Conv2d(16, 3, 1)
            nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
            self.maps[direction] = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), last)

    @property
    def directions(self):
        return list(self.maps)

    def noise_shape(self, image):
        return 1, 0, 0, 0

    def translate_together(self, images, embeddings, strength=None, noise=None):
        seen = {d: torch.zeros_like(image) if self.blind else image for d, image in images.items()}
        return {d: (image + self.maps[d](image)).clamp(-1, 1) for d, image in seen.items()}


def dusk(day):
    return day * torch.tensor([0.4, 0.4, 0.7]).view(3, 1, 1) - torch.tensor([0.5, 0.4, 0.1]).view(3, 1, 1)


def scenes(first, count):
    return torch.stack([render("day_night", "a", 0, first + k, SIZE) for k in range(count)])


class Data(LightningDataModule):
    """Ready-made batches; the test pictures of both domains show the same scenes, so the truth is known."""

    directions = ("a2b", "b2a")
    description = "made up"

    def __init__(self, steps, truth):
        super().__init__()
        self.steps = steps
        self.train = scenes(0, TRAIN), dusk(scenes(100, TRAIN))
        day = scenes(200, TEST)
        self.test = {"a2b": (day, dusk(day)), "b2a": (dusk(day), day)}
        self.truth = truth

    def train_dataloader(self):
        draw, batches = torch.Generator().manual_seed(0), []
        for k in range(self.steps):
            a, b = torch.randint(TRAIN, (2, BATCH), generator=draw)
            index = torch.arange(BATCH) + k * BATCH
            batches.append(
                UnpairedBatch(self.train[0][a], self.train[1][b], index, index, ["a"] * BATCH, ["b"] * BATCH)
            )
        return DataLoader(batches, batch_size=None)

    def test_dataloader(self):
        loaders = []
        for direction, (real, truth) in self.test.items():
            known = truth if self.truth else None
            batch = EvaluationBatch(real, direction, torch.arange(TEST), ["x"] * TEST, truth=known)
            loaders.append(DataLoader([batch], batch_size=None))
        return loaders

    val_dataloader = test_dataloader

    def reference_dataloader(self, direction, stage):
        batch = EvaluationBatch(self.test[direction][1], direction, torch.arange(TEST), ["x"] * TEST)
        return DataLoader([batch], batch_size=None)

    def protocol(self, direction, stage):
        return {"split": stage}

    def reference_stamp(self, direction, stage):
        return "as they were"


def train(tmp_path, blind=False, truth=True, steps=60, **weights):
    """Fit and test; returns the alarms and what TensorBoard holds."""
    torch.manual_seed(0)
    adam = functools.partial(torch.optim.Adam, lr=1e-2, betas=(0.5, 0.999))
    weights = UnpairedWeights(
        **{"cycle": 1.0, "cycle_lpips": 0.0, "idt": 0.0, "idt_lpips": 0.0, "disc": 1.0, **weights}
    )
    discriminator = PatchDiscriminator(width=8, layers=2, norm="spectral")
    module = CycleGANTurbo(Recolour(blind), discriminator, adam, adam, PROMPTS, weights)
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=1,
        val_check_interval=steps // 3,
        num_sanity_val_steps=0,
        logger=TensorBoardLogger(tmp_path, "", ""),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[Evaluation("lite0", "lite0", "lite0"), CollapseAlarm()],
    )
    data = Data(steps, truth)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, data)
        trainer.test(module, data, verbose=False)
    trainer.logger.finalize("success")
    events = EventAccumulator(str(tmp_path)).Reload()
    messages = [str(w.message) for w in caught if " collapse in " in str(w.message)]
    return messages, events


def drawn(events, name):
    return [e.value for d in ("a2b", "b2a") for e in events.Scalars(f"val_alarm/{name}_{d}")]


@pytest.mark.parametrize("truth", [True, False])
def test_a_run_without_adversary_copies_and_is_called_so(tmp_path, truth):
    messages, events = train(tmp_path, gan=0.0, disc=0.0, idt=1.0, truth=truth)
    assert all(m.startswith("identity collapse in ") for m in messages)
    assert any("in a2b" in m and "validations in a row" in m for m in messages)
    assert any("in b2a" in m and "at the end of the run" in m for m in messages)
    assert all(("lpips_truth" if truth else "domain_shift") in m and "floor" in m for m in messages)
    assert drawn(events, "identity_collapse") == [1.0] * 6
    assert drawn(events, "mode_collapse") == [0.0] * 6
    assert "val_alarm/text_summary" in events.Tags()["tensors"]


def test_a_run_that_does_not_see_its_input_is_called_so(tmp_path):
    messages, events = train(tmp_path, blind=True, gan=1.0, cycle=0.0)
    alike = [m for m in messages if m.startswith("mode collapse in ")]
    assert any("in a2b" in m and "validations in a row" in m for m in alike)
    assert any("in b2a" in m and "at the end of the run" in m for m in alike)
    assert drawn(events, "mode_collapse") == [1.0] * 6


def test_a_healthy_run_is_left_in_peace(tmp_path):
    messages, events = train(tmp_path, gan=1.0, steps=120)
    assert messages == []
    assert "val_alarm/text_summary" not in events.Tags()["tensors"]


def warnings_of(figures, split="val", times=1, seen=1000, **floors):
    """Warnings of a direction whose figures are given."""
    alarm = CollapseAlarm(**floors)
    trainer = SimpleNamespace(
        sanity_checking=False,
        testing=split != "val",
        ckpt_path="run/checkpoints/best-3.ckpt" if split == "best" else None,
        loggers=[],
        is_global_zero=True,
        callback_metrics={f"{split}/{name}_b2a": torch.tensor(value) for name, value in figures.items()},
    )
    module = Mock(spec=CycleGANTurbo, generator=SimpleNamespace(directions=["b2a"]), images_seen=seen)
    tested = scoring_best() if split == "best" else nullcontext()
    with tested, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(times):
            (alarm.on_validation_end if split == "val" else alarm.on_test_end)(trainer, module)
    return [str(w.message) for w in caught]


@pytest.mark.parametrize(
    ("figures", "words"),
    [
        # A lossy copy is farther from its input than clear from foggy, and still nearer to it than to fog.
        ({"identity_gap": 0.079, "lpips_truth": 0.105, "domain_shift": 0.8, "diversity": 1.0}, ["identity", "0.43"]),
        ({"identity_gap": 0.079, "domain_shift": 0.2, "diversity": 1.0}, ["identity", "domain_shift 0.20"]),
        ({"identity_gap": 0.004}, ["identity", "identity_gap 0.0040"]),
        ({"identity_gap": 0.1, "lpips_truth": 0.1, "diversity": 0.1}, ["mode", "diversity 0.100"]),
        ({"identity_gap": 0.079, "lpips_truth": 0.05, "domain_shift": 0.1, "diversity": 1.0}, []),
        ({"identity_gap": 0.0, "lpips_truth": 0.0, "diversity": 1.0}, ["identity_gap 0.0000"]),
        ({}, []),
    ],
)
def test_the_best_figure_that_is_known_decides(figures, words):
    messages = warnings_of(figures, "test")
    assert len(messages) == bool(words)
    assert all(word in messages[0] for word in words)


def test_validations_have_patience_and_the_test_has_none():
    copies = {"identity_gap": 0.0, "lpips_truth": 0.1, "diversity": 1.0}
    assert warnings_of(copies, times=1) == []
    assert "2 validations in a row" in warnings_of(copies, times=2)[0]
    assert "at the end of the run" in warnings_of(copies, "test")[0]
    assert "on the test split with best-3.ckpt" in warnings_of(copies, "best")[0]


def test_counts_go_on_after_a_resume():
    first, second = CollapseAlarm(), CollapseAlarm()
    first.below = {"identity_collapse_a2b": 1}
    second.load_state_dict(first.state_dict())
    assert second.below == first.below
    assert math.isclose(second.floors.truth, 0.45)


def test_changed_images_are_not_called_copies():
    changed = {"identity_gap": 0.079, "domain_shift": 0.2}
    assert "did not move towards A" in warnings_of(changed, "test")[0]
    copied = {"identity_gap": 0.001, "domain_shift": 0.2}
    assert "stay too close to their inputs" in warnings_of(copied, "test")[0]


def test_the_alarm_is_quiet_while_training_has_seen_few_images():
    copies = {"identity_gap": 0.0, "lpips_truth": 0.1}
    for split, times in (("val", 3), ("test", 1)):
        assert warnings_of(copies, split, times, seen=199) == []
        assert len(warnings_of(copies, split, times, seen=200)) > 0
