"""make bench-edit: what is asked of the adapter, and how its answers are judged."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.edits import (
    AMOUNTS,
    ELSEWHERE,
    SINGLE,
    Measured,
    aims,
    amounts,
    chains,
    elsewhere,
    markdown,
    other_words,
)
from datamodules import Edits
from evaluation.edits import OVERALL
from networks.features import load_features

SIDE = 32


class Recorder:
    """An adapter that darkens its input by the strength, and remembers what it was asked."""

    def __init__(self):
        self.prompts = []
        self.backend = SimpleNamespace(embed=self.embed, translate=self.translate)

    def __call__(self, image, direction, prompt, strength=1.0):
        self.prompts.append(prompt)
        return image - 0.5 * strength * (image + 1)

    def embed(self, prompts):
        self.prompts += prompts
        return np.arange(len(prompts), dtype=np.float32).reshape(-1, 1, 1)

    def translate(self, images, embedding, direction):
        return images - 0.5 * embedding.reshape(-1, 1, 1, 1) * (images + 1)


@pytest.fixture(scope="module")
def data():
    return Edits(train_scenes=4, val_scenes=2, test_scenes=2, resize=SIDE, crop=SIDE, eval_size=SIDE, num_workers=0)


@pytest.fixture(scope="module")
def measured():
    return Measured(load_features("lite0"))


def test_a_chain_is_the_two_trained_edits_one_after_the_other(data, measured):
    asked = Recorder()
    found = chains(asked, data, measured, 1)
    assert list(found) == ["unseen: day clear to night foggy", "unseen: horse green to zebra sandy"]
    assert asked.prompts == [
        *("a street at night in dense fog", "a street at night", "a street in dense fog"),
        *("picture of a zebra in sand", "picture of a zebra", "picture of sand"),
    ]
    for ways in found.values():
        assert ways["one step"]["psnr_truth"] != ways["chained"]["psnr_truth"]
        assert ways["one step"]["copy_psnr_truth"] == ways["chained"]["copy_psnr_truth"]


def test_other_words_are_none_of_those_trained(data, measured):
    rows = other_words(Recorder(), data, measured, 1)
    trained = {*data.edits}
    assert {row["edit"] for row in rows} == {*SINGLE} <= trained
    assert all(row["prompt"] == row["edit"] or row["prompt"] not in trained for row in rows)
    assert [row["prompt"] for row in elsewhere(Recorder(), data, measured, 2)] == [*ELSEWHERE]
    assert not trained & {*ELSEWHERE}


def test_more_of_an_edit_leads_away_from_the_input(data, measured):
    found = amounts(Recorder(), data, measured, 2)
    for way in ("strength", "prompts"):
        gaps = found[way]["lpips_input"]
        assert gaps[0] == pytest.approx(0, abs=1e-6) and sorted(gaps) == gaps and len(gaps) == len(AMOUNTS)
        assert found[way]["steps_away_from_input"] == 1


def test_aims_are_shares_and_every_table_is_printed(data, measured):
    scores = {"n": 2, "lpips_truth": 0.02, "copy_lpips_truth": 0.05, "success": 0.6, "success_truth": 0.8}
    by_kind = {"no-op": scores | {"lpips_truth": 0.01}, "a wet street": scores, OVERALL: scores}
    single = [{"edit": "a wet street", "ratio": 1.2}, {"edit": "other", "ratio": 1.1}]
    found = aims(by_kind, single)
    assert list(found.values()) == pytest.approx([0.75, 0.2, 1.2])
    asked = Recorder()
    report = {
        "by_kind": by_kind,
        "single": single,
        "unseen": chains(asked, data, measured, 1),
        "other_words": other_words(asked, data, measured, 1),
        "elsewhere": elsewhere(asked, data, measured, 2),
        "amounts": amounts(asked, data, measured, 1),
        "aims": found,
    }
    text = markdown(report)
    assert markdown(report | {"single": []}).count("\n|---") == 7 and len(aims(by_kind, [])) == 2
    assert text.count("\n|---") == 8 and "a wet street" in text and "'a bowl of fruit'" in text
