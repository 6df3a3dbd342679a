"""Scores by kind of edit: what was asked for is read off the images, not off the captions."""

import pytest
import torch

from ablation.tables import figures
from datamodules import Edits
from datamodules.batches import Asked, Translation
from evaluation.collapse import Floors
from evaluation.compare import table as comparison
from evaluation.edits import OVERALL, EditData, EditScores, edit_table, edit_text
from evaluation.scorer import Scorer
from metrics.probe import attributes_of
from metrics.scores import formatted
from metrics.translation import TranslationMetrics

SIDE = 64


@pytest.fixture(scope="module")
def data():
    return Edits(train_scenes=8, val_scenes=2, test_scenes=32, resize=SIDE, crop=SIDE, eval_size=SIDE, num_workers=0)


@pytest.fixture(scope="module")
def blocks(data):
    """The block of metrics.json of two models: one that edits as asked, and one that copies."""
    scorer = Scorer("lite0", "lite0", "lite0")
    found = {}
    for name in ("truth", "copy"):
        scorer.start(data, "test", ["a2b"])
        for batch in data.test_dataloader()[0]:
            fake = batch.truth if name == "truth" else batch.real
            scorer.update(Translation("a2b", batch.real, fake, batch.index, batch.names, batch.truth, batch.captions))
        found[name] = scorer.finish()["a2b"]
    return found


def test_a_perfect_model_succeeds_as_often_as_true_images(blocks):
    perfect = blocks["truth"]["by_kind"]
    for kind, scores in perfect.items():
        assert scores["lpips_truth"] == 0, kind
        assert scores["success"] == scores["success_truth"] and scores.get("preserved") == scores.get("preserved_truth")
    assert blocks["truth"]["edit_success"] == perfect[OVERALL]["success"] > 0.75
    assert blocks["truth"]["edit_preserved"] > 0.8


def test_a_copy_preserves_everything_and_succeeds_in_nothing(blocks):
    copied = blocks["copy"]["by_kind"]
    assert blocks["copy"]["edit_success"] < 0.2 and blocks["copy"]["edit_preserved"] > 0.8
    assert copied["a street at night"]["success"] == 0
    assert copied["no-op"]["success"] == copied["no-op"]["success_truth"] > 0
    for scores in copied.values():
        assert scores["lpips_truth"] == scores["copy_lpips_truth"]
        assert scores["identity_gap"] == 0


def test_kinds_are_of_their_images_and_no_ops_are_no_changes(data, blocks):
    by_kind = blocks["truth"]["by_kind"]
    assert sum(scores["n"] for kind, scores in by_kind.items() if kind != OVERALL) == 32
    assert by_kind[OVERALL]["n"] == 32 - by_kind["no-op"]["n"]
    assert {kind for kind in by_kind if kind.startswith("unseen: ")} == {
        "unseen: day clear to night foggy",
        "unseen: horse green to zebra sandy",
    }
    for asked, edit in zip(data.asked("test"), data.evaluated["test"], strict=True):
        assert asked.change | asked.keep == edit.to_score().change | edit.to_score().keep
        assert not asked.change.keys() & asked.keep.keys()
        assert {*asked.change.values(), *asked.keep.values()} == {*edit.target}


class OwnEdits:
    """Three images of two kinds, nothing known of their attributes."""

    def __init__(self, asked):
        self._asked = asked

    def asked(self, stage):
        return self._asked

    def labelled(self, scenes):
        return iter(())


def test_data_without_attributes_has_distances_alone():
    metrics = TranslationMetrics("lite0", "lite0", "lite0")
    images = torch.linspace(-1, 1, 3 * 3 * 32 * 32).reshape(3, 3, 32, 32)
    metrics.update_real(images, torch.arange(3))
    metrics.update(images.flip(-1), images, torch.arange(3), images, ["x", "y", "x"])
    data = OwnEdits([Asked("x"), Asked("y"), Asked("x")])
    assert isinstance(data, EditData)
    found = EditScores(data).compute("test", metrics)
    assert found.keys() == {"by_kind"} and {k: v["n"] for k, v in found["by_kind"].items()} == {
        "x": 2,
        "y": 1,
        OVERALL: 3,
    }
    assert "success" not in found["by_kind"]["x"]
    headings, cells = edit_table(found["by_kind"])
    assert "success" not in headings and all(len(row) == len(headings) for row in cells)
    assert edit_text(found["by_kind"]).splitlines()[2].startswith("| x | 2 | 0 |")
    assert EditScores(OwnEdits([])).compute("test", metrics) == {}


def test_images_that_were_not_evaluated_do_not_count(data):
    scorer = Scorer("lite0", "lite0", "lite0")
    scorer.start(data, "test", ["a2b"])
    second = list(data.test_dataloader()[0])[1]  # a validation limited to some batches
    scorer.update(Translation("a2b", second.real, second.truth, second.index, second.names, second.truth))
    by_kind = scorer.finish()["a2b"]["by_kind"]
    kinds = [data.asked("test")[k].kind for k in second.index.tolist()]
    assert {kind: scores["n"] for kind, scores in by_kind.items() if kind != OVERALL} == {k: 1 for k in kinds}
    assert all(scores["success"] == scores["success_truth"] for scores in by_kind.values())


def test_an_adapter_that_ignores_captions_is_called_so(blocks):
    floors = Floors()
    assert floors.identity_collapse("a2b", blocks["truth"]) == ""
    assert "a2b does not follow the captions (edit_success" in floors.identity_collapse("a2b", blocks["copy"])


def test_success_and_preservation_are_shown_where_runs_are_compared(blocks):
    lines = comparison({name: {"a2b": block} for name, block in blocks.items()}).splitlines()
    columns = [cell.strip() for cell in lines[0].split("|")]
    for line, name in zip(lines[2:4], ("truth", "copy"), strict=True):
        cells = dict(zip(columns, (cell.strip() for cell in line.split("|")), strict=True))
        assert cells["run"] == name
        assert [cells[key] for key in ("edit_success", "edit_preserved")] == [
            formatted(blocks[name][key]) for key in ("edit_success", "edit_preserved")
        ]
    assert figures({"a2b": blocks["truth"]})["edit_success_a2b"] == blocks["truth"]["edit_success"]
    alone = {key: value for key, value in blocks["truth"].items() if not key.startswith("edit_")}
    assert "edit_" not in comparison({"alone": {"a2b": alone}})


def test_an_attribute_is_read_by_a_probe_of_the_images_that_have_it():
    light, animal = torch.tensor([[5.0, 0.0], [-5.0, 0.0]]), torch.tensor([[0.0, 5.0], [0.0, -5.0]])
    noise = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    train = torch.cat([light.repeat(10, 1), animal.repeat(10, 1)]) + noise
    labels = [{"light": name} for name in ("day", "night")] * 10 + [
        {"animal": name} for name in ("horse", "zebra")
    ] * 10
    read = attributes_of(train, labels, torch.cat([light, animal]))
    assert read["light"][:2] == ["day", "night"] and read["animal"][2:] == ["horse", "zebra"]
