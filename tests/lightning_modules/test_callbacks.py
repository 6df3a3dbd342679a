import math
import time
from types import SimpleNamespace

import pytest
import torch
from lightning import LightningDataModule, Trainer
from torch.utils.data import DataLoader

from datamodules.batches import EvaluationBatch
from lightning_modules.callbacks import Evaluation, Throughput
from networks.features import load_features

from .conftest import pictures, unpaired_batch


class Data(LightningDataModule):
    """Two validation batches per direction, seven real images; counts how often the real ones are read."""

    stamp = "as they were"
    directions = ("a2b", "b2a")
    description = "made up"

    def __init__(self):
        super().__init__()
        self.asked = []

    def train_dataloader(self):
        return DataLoader([unpaired_batch(1, k) for k in range(2)], batch_size=None)

    def batches(self, direction):
        for k in range(2):
            index = torch.arange(2) + 2 * k
            yield EvaluationBatch(pictures(2, 50 + k), direction, index, [f"{i}.png" for i in index.tolist()])

    def val_dataloader(self):
        return [DataLoader(list(self.batches(d)), batch_size=None) for d in ("a2b", "b2a")]

    def test_dataloader(self):
        return self.val_dataloader()

    def reference_dataloader(self, direction, stage):
        self.asked.append((direction, stage))
        whole = EvaluationBatch(pictures(7, 80), direction, torch.arange(7), [str(i) for i in range(7)])
        return DataLoader([whole], batch_size=None)

    def protocol(self, direction, stage):
        return {"split": stage}

    def reference_stamp(self, direction, stage):
        return self.stamp


def fit(module, callbacks, **arguments):
    data = Data()
    trainer = Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=callbacks,
        **arguments,
    )
    trainer.fit(module, data)
    return trainer, data


def test_real_statistics_are_shared_by_runs_that_measure_alike(unpaired, tmp_path, monkeypatch):
    def run(**settings):
        torch.manual_seed(0)
        evaluation = Evaluation("random", "random", "random", **settings)
        _, data = fit(unpaired(), [evaluation])
        return data.asked, {d: evaluation.results[d]["fid"] for d in ("a2b", "b2a")}

    asked, plain = run()
    assert asked == [("a2b", "validate"), ("b2a", "validate")]
    for expected in (asked, []):  # the first run describes them, the second reads that
        found, scores = run(statistics=str(tmp_path))
        assert found == expected
        assert scores == plain
    assert run(statistics=str(tmp_path), resize="legacy")[0] == asked, "other features are other statistics"
    monkeypatch.setattr(Data, "stamp", "one was replaced")
    assert run(statistics=str(tmp_path))[0] == asked


def test_data_that_cannot_be_scored_is_told_what_it_lacks(unpaired, monkeypatch):
    monkeypatch.delattr(Data, "reference_stamp")
    with pytest.raises(TypeError, match=r"Translations of Data cannot be scored: it has no reference_stamp\."):
        fit(unpaired(), [Evaluation("random", "random", "random")])


def test_other_data_has_real_statistics_of_its_own(unpaired):
    module = unpaired()
    trainer, data = fit(module, [Evaluation("random", "random", "random")])
    other = Data()
    trainer.validate(module, other, verbose=False)
    assert other.asked == data.asked == [("a2b", "validate"), ("b2a", "validate")]


def test_real_statistics_are_read_once_and_whole_whatever_the_limits(unpaired):
    evaluation = Evaluation("random", "random", "random")
    trainer, data = fit(unpaired(), [evaluation], limit_val_batches=1)
    assert sorted(data.asked) == [("a2b", "validate"), ("b2a", "validate")]
    for direction in ("a2b", "b2a"):
        result = evaluation.results[direction]
        assert (result["n_real"], result["n_fake"]) == (7, 2)
        assert math.isclose(float(trainer.callback_metrics[f"val/kid_{direction}"]), result["kid"], rel_tol=1e-5)
    assert float(trainer.callback_metrics["images_seen"]) == 4


def test_a_resize_by_name_is_for_fid_only_and_part_of_the_protocol(unpaired):
    found = {}
    for resize in (None, "clean"):
        evaluation = Evaluation("random", "random", "random", resize=resize)
        fit(unpaired(), [evaluation])
        found[resize] = evaluation.results["a2b"]
    own, clean = found.values()
    assert (own["fid_features"], clean["fid_features"]) == ("random", "random-clean")
    assert (own["protocol"]["feature_resize"], clean["protocol"]["feature_resize"]) == (None, "clean, to 224 x 224")
    assert own["fid"] != clean["fid"]
    assert (own["structure"], own["identity_gap"]) == (clean["structure"], clean["identity_gap"])


def test_feature_networks_are_in_no_state_and_no_optimiser(unpaired):
    module = unpaired()
    before = {n for n, _ in module.named_parameters()} | set(module.state_dict())
    fit(module, [Evaluation("random", "random", "random")])
    assert {n for n, _ in module.named_parameters()} | set(module.state_dict()) == before


def test_validation_leaves_training_alone(unpaired):
    """Weights after training with and without validation are the same bits."""
    weights = []
    for callbacks, limit in (([Evaluation("random", "random", "random")], 1.0), ([], 0)):
        module = unpaired()
        fit(module, callbacks, limit_val_batches=limit)
        weights.append(module.generator.unet.conv_in.trained.weight.detach().clone())
    assert torch.equal(*weights)


def test_throughput_counts_batches_and_goes_on_after_a_resume(unpaired):
    first = Throughput()
    fit(unpaired(), [first], limit_val_batches=0)
    assert first.batches == 4
    assert 0 < first.seconds <= first.wall_s
    stopped = first.wall_s
    time.sleep(0.01)
    assert first.wall_s == stopped  # a test after the fit does not count
    second = Throughput()
    second.load_state_dict(first.state_dict())
    fit(unpaired(), [second], limit_val_batches=0)
    assert second.batches == 8
    assert second.seconds > first.seconds
    assert second.seconds_per_batch == pytest.approx(second.seconds / 8)


def images_per_s(module, callback):
    """As logged after one batch of a second."""
    logged = {}
    logger = SimpleNamespace(log_metrics=lambda scalars, step: logged.update(scalars))
    trainer = SimpleNamespace(loggers=[logger], log_every_n_steps=1)
    callback.on_fit_start(trainer, module)
    callback._last = time.perf_counter() - 1
    module.images_seen += 2
    callback.on_train_batch_end(trainer, module, None, None, 0)
    return logged["perf/images_per_s"]


def test_speed_after_a_resume_is_that_of_its_own_images():
    callback, module = Throughput(), SimpleNamespace(images_seen=20_000)
    callback.load_state_dict({"batches": 10_000, "seconds": 9e3, "wall_s": 1e4, "peak_memory_mb": 0.0})
    assert images_per_s(module, callback) == pytest.approx(2, rel=0.1)


def test_an_interval_of_zero_logs_nothing():
    callback, module = Throughput(), SimpleNamespace(images_seen=1)
    callback.on_train_batch_end(SimpleNamespace(loggers=None, log_every_n_steps=0), module, None, None, 0)
    assert callback.batches == 1


def test_a_missing_network_is_found_before_the_first_batch(unpaired, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: (_ for _ in ()).throw(OSError("no hub")))
    module = unpaired()
    with pytest.raises(FileNotFoundError, match="Weights of feature network 'alex'"):
        fit(module, [Evaluation("random", "random", "alex")])
    assert module.images_seen == 0


def test_peak_memory_of_a_gpu_is_that_of_training(monkeypatch):
    now = {"peak": 0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: now["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: now.update(peak=2**20))
    callback, trainer = Throughput(), SimpleNamespace(loggers=[], log_every_n_steps=1)
    module = SimpleNamespace(images_seen=0)
    callback.on_fit_start(trainer, module)
    for peak in (3, 5, 4):  # the validations between them take more
        callback.on_train_epoch_start(trainer, module)
        assert now["peak"] == 2**20
        now["peak"] = peak * 2**20
        callback.on_train_batch_end(trainer, module, None, None, 0)
        now["peak"] = 9 * 2**20
        callback.on_validation_end(trainer, module)
    assert callback.peak_memory_mb == 5
    again = Throughput()
    again.load_state_dict(callback.state_dict())
    assert again.peak_memory_mb == 5


def test_networks_of_training_are_not_loaded_again(unpaired):
    module = unpaired()
    own, other = module.perceptual.features, load_features("random")
    other.weights = "a/file"
    evaluation = Evaluation("random", "random", "random")
    evaluation.scorer.share(torch.nn.ModuleList([other]))  # of another source: not known to be the same
    assert evaluation.scorer.networks == {}
    evaluation.scorer.share(module)
    evaluation.scorer.build()
    assert list(evaluation.scorer.networks.values()) == [own]
