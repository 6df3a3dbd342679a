import pytest
import torch

from datamodules import ClearFoggy, EdgeToImage
from datamodules.batches import EvaluationBatch, Translation
from evaluation.protocol import EvaluationData, protocol_text
from evaluation.scorer import Scorer


def images(n, seed):
    return torch.rand(n, 3, 16, 16, generator=torch.Generator().manual_seed(seed)) * 2 - 1


class Data:
    """Five inputs and seven real images; counts how often the real ones are read."""

    directions = ("a2b", "b2a")
    description = "made up"

    def __init__(self):
        self.asked = []

    def batch(self, direction):
        return EvaluationBatch(images(5, 1), direction, torch.arange(5), [f"{k}.png" for k in range(5)])

    def test_dataloader(self):
        return [[self.batch(direction)] for direction in self.directions]

    def reference_dataloader(self, direction, stage):
        self.asked.append((direction, stage))
        return [EvaluationBatch(images(7, 0), direction, torch.arange(7), [str(k) for k in range(7)])]

    def protocol(self, direction, stage):
        return {"split": stage, "renderer": None}

    def reference_stamp(self, direction, stage):
        return "as they were"


def translated(data, direction, fake):
    batch = data.batch(direction)
    return Translation(direction, batch.real, fake, batch.index, batch.names)


@pytest.mark.parametrize("module", [ClearFoggy, EdgeToImage])
def test_data_modules_have_what_scoring_asks_for(module):
    assert isinstance(module(train_scenes=1, val_scenes=1, test_scenes=1), EvaluationData)


def test_a_pass_scores_each_direction_by_itself():
    data, scorer = Data(), Scorer("random", "random", "random")
    scorer.start(data, "test", ["a2b", "b2a"], ["lite1"])
    scorer.update(translated(data, "a2b", images(5, 1)))
    scorer.update(translated(data, "b2a", images(5, 2)))
    found = scorer.finish()
    assert list(found) == ["a2b", "b2a"]
    assert found["a2b"]["identity_gap"] == 0 < found["b2a"]["identity_gap"]
    assert found["a2b"]["features_seen_in_training"] == ["lite1"]
    protocol = found["b2a"]["protocol"]
    assert (protocol["direction"], protocol["split"]) == ("b2a", "test")
    assert "- real images: 7" in protocol_text(found["b2a"]) and "None" not in protocol_text(found["b2a"])
    assert scorer.per_image("a2b")["identity_gap"].tolist() == [0.0] * 5


def test_a_second_pass_keeps_the_real_images_and_nothing_else():
    data, scorer = Data(), Scorer("random", "random", "random")
    results = []
    for fake in (images(5, 2), images(5, 1), images(5, 2)):
        scorer.start(data, "validate", ["a2b"])
        scorer.update(translated(data, "a2b", fake))
        results.append(scorer.finish()["a2b"])
    assert data.asked == [("a2b", "validate")]
    assert results[0] == results[2] != results[1]


def test_what_was_not_started_is_refused():
    data, scorer = Data(), Scorer("random", "random", "random")
    with pytest.raises(RuntimeError, match="start a pass first"):
        scorer.finish()
    scorer.start(data, "test", ["a2b"])
    with pytest.raises(RuntimeError, match="'b2a' was not started"):
        scorer.update(translated(data, "b2a", images(5, 2)))
