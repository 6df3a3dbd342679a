"""The benchmark of translation writes a figure for every model, size and batch."""

import json

import pytest

from benchmarks import translate


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_combination_is_measured_beside_the_reference(tiny_base, tmp_path, capsys):
    words = ["--base", str(tiny_base), "--sizes", "16", "--batches", "1", "2", "--pairs", "1"]
    models = ["torch-float32", "openvino-float32"]
    translate.main([*words, "--models", *models, "--out", str(tmp_path / "times.json")])
    report = json.loads((tmp_path / "times.json").read_text())
    measured = [(row["model"], row["size"], row["batch"]) for row in report["rows"]]
    assert measured == [(model, 16, batch) for model in models for batch in (1, 2)]
    for row in report["rows"]:
        assert all(row[key] > 0 for key in ("seconds", "reference_s", "ratio", "load_s", "first_image_s", "peak_bytes"))
    assert report["threads"] >= 1 and report["versions"]["torch"]
    assert capsys.readouterr().out.count("| openvino-float32 |") == 2
