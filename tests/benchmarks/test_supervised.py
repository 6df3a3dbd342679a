import json
import sys

import pytest
import torch

from benchmarks import supervised
from benchmarks.base_models import Run
from commands.evaluate import build_data
from commands.experiments import compose, merged
from datamodules import PairedImages
from datamodules.images import read_image

WRITE = """
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
folder.mkdir(parents=True)
(folder / "metrics.json").write_text(sys.argv[2])
"""
METRICS = {
    "images_seen": 1200, "wall_s": 60.0, "versions": {"torch": "2"},
    "a2b": {"fid": 30.0, "lpips_truth": 0.04, "psnr_truth": 20.0, "copy_input": {"fid": 120.0, "lpips_truth": 0.05}},
}  # fmt: skip


def small(task):
    config = merged(compose(task, "pocket").configs)
    counts = {"train_scenes": 3, "val_scenes": 2, "test_scenes": 2}
    config["data"]["init_args"] |= {"resize": 32, "crop": 32, "eval_size": 32, "num_workers": 0, **counts}
    return build_data(config, None)


@pytest.mark.parametrize("direction", ["a2b", "b2a"])
def test_pairs_are_the_tasks_own_scenes_and_their_counterparts(direction, tmp_path):
    data = small("day2night")
    supervised.write_pairs(data, direction, tmp_path)
    pairs = PairedImages(root=str(tmp_path), resize=32, crop=32, eval_size=32, batch_size=1, num_workers=0)
    ours, theirs = (d.evaluation_set(who, "test") for d, who in ((pairs, "a2b"), (data, direction)))
    assert len(ours) == len(theirs) == 2
    for a, b in ((ours[k], theirs[k]) for k in range(2)):
        assert torch.equal(a["real"], b["real"])
        assert torch.equal(a["truth"], b["truth"])
        assert not torch.equal(a["real"], a["truth"])
    # Training shows what the unpaired task shows of the source domain.
    drawn = [read_image(path) for path in sorted((tmp_path / "train_A").iterdir())]
    assert all(torch.equal(x, data.images["train"][direction[0]].read(k)) for k, x in enumerate(drawn))
    assert len(drawn) == 3


def test_the_command_trains_on_pairs_and_resumes(tmp_path):
    run = Run("day2night", "supervised", 0, tmp_path / "run")
    words = supervised.words(run, "driving in the night", tmp_path / "pairs", ["--x=1"])
    wanted = {"--exp=edge2image", "--base=pocket", f"--data={tmp_path}/pairs", f"--run={run.folder}", "--x=1"}
    assert wanted | {"--data.init_args.caption=driving in the night"} <= set(words)
    (run.folder / "checkpoints").mkdir(parents=True)
    (run.folder / "checkpoints" / "last.ckpt").touch()
    assert supervised.words(run, "", tmp_path, [])[1:] == ["-m", "commands.resume", f"--run={run.folder}"]


def test_the_table_gives_shares_and_a_failure_does_not_stop_the_rest(tmp_path, monkeypatch, capsys):
    def pretend(run, caption, data, overrides):
        if "b2a" in str(run.folder):
            return [sys.executable, "-c", "raise SystemExit(2)"]
        return [sys.executable, "-c", WRITE, str(run.folder), json.dumps(METRICS)]

    monkeypatch.setattr(supervised, "words", pretend)
    monkeypatch.setattr(supervised, "write_pairs", lambda *_: None)
    flags = ["--tasks", "day2night", "--root", str(tmp_path), "--out", str(tmp_path / "kept.json")]
    assert supervised.main(flags) == 1
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept == json.loads((tmp_path / "table.json").read_text())
    (found,) = kept["rows"]
    assert found["of_copying"] == pytest.approx({"fid": 0.25, "lpips_truth": 0.8})
    assert len(kept["failed"]) == 1
    assert "b2a" in kept["failed"][0]
    out = capsys.readouterr().out
    assert "| day2night a2b | 30 | 0.25 | 0.0400 | 0.80 | 20.0 | 1200 |" in out
    assert "b2a: FAILED" in out
