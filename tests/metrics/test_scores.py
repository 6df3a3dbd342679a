import subprocess
import sys

import pytest

from metrics.scores import FUNCTIONS, SCORES, TABLES, Score, formatted, markdown_table, network_of, register, shown_in


def test_each_table_shows_its_scores_and_of_blocks_those_that_they_have():
    assert {table: [score.name for score in shown_in(table)] for table in TABLES} == {
        "report": "fid fid_floor kid structure lpips_truth psnr_truth caption_similarity edit_success edit_preserved "
        "identity_gap diversity domain_shift".split(),
        "compare": "fid fid_floor kid structure lpips_truth psnr_truth edit_success edit_preserved identity_gap "
        "diversity".split(),
        "ablation": "fid kid structure lpips_truth psnr_truth caption_similarity edit_success edit_preserved "
        "diversity".split(),
        "card": "fid fid_floor kid structure lpips_truth psnr_truth edit_success edit_preserved".split(),
        "terminal": "fid fid_floor kid structure identity_gap".split(),
    }
    some = [{"fid": 1.0, "psnr_truth": None}, {"edit_success": 0.5}]
    assert [score.name for score in shown_in("card", some)] == ["fid", "edit_success"]


def test_registered_scores_are_shown_everywhere_and_names_are_unique(monkeypatch):
    monkeypatch.setattr("metrics.scores.SCORES", dict(SCORES))
    monkeypatch.setattr("metrics.scores.FUNCTIONS", dict(FUNCTIONS))
    register(Score("sharpness", "sharpness", per_image=True), lambda images: images.fake.embedding[:, 0])
    assert all(shown_in(table)[-1].name == "sharpness" for table in TABLES)
    with pytest.raises(ValueError, match="There is a score 'fid' already"):
        register(Score("fid", "FID"), lambda sets: sets.fake.moments.mean.sum())


def test_the_network_of_a_score_is_read_from_the_block():
    block = {"fid_features": "inception", "lpips_features": "alex"}
    assert network_of(SCORES["kid"], block) == "inception"
    assert network_of(SCORES["lpips_truth"], block) == "alex"
    assert network_of(SCORES["structure"], block) is None
    assert network_of(SCORES["psnr_truth"], block) is None


def test_the_registry_is_read_without_torch():
    code = "import sys, metrics.scores; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_figures_and_tables_in_markdown():
    assert [formatted(value) for value in (None, 0.0, 12.34567, 1e-5)] == ["-", "0", "12.35", "1e-05"]
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n|---|---|\n| 1 | 2 |"
