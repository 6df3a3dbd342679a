import json
import sys

import pytest
import torch

from ablation import trials
from ablation.trials import Trial
from benchmarks import supervised
from commands.cli.recipes import compose
from commands.evaluate import build_data
from datamodules import PairedImages
from images.reading import read_image

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
    config = compose(task, "pocket").config
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
    drawn = [torch.from_numpy(read_image(path)) for path in sorted((tmp_path / "train_A").iterdir())]
    assert all(torch.equal(x, data.images["train"][direction[0]].read(k)) for k, x in enumerate(drawn))
    assert len(drawn) == 3


@pytest.fixture
def pretended(monkeypatch, tmp_path):
    """Trainings that write their metrics at once; those to domain A fail.  Lists the arguments of each."""
    asked = []

    def command(trial):
        asked.append(trial.arguments)
        if "b2a" in trial.folder:
            return [sys.executable, "-c", "print('error: no room'); raise SystemExit(2)"]
        return [sys.executable, "-c", WRITE, trial.folder, json.dumps(METRICS)]

    monkeypatch.setattr(Trial, "command", command)
    monkeypatch.setattr(supervised, "write_pairs", lambda *_: None)
    monkeypatch.setattr(trials, "POLL_SECONDS", 0.1)
    return asked


def test_the_table_gives_shares_and_a_failure_does_not_stop_the_rest(pretended, tmp_path, capsys):
    flags = ["--tasks", "day2night", "--directions", "b2a", "a2b", "--root", str(tmp_path), "--x=1"]
    flags += ["--out", str(tmp_path / "copy.json")]
    assert supervised.main(flags) == 1
    common = ["--seed_everything=0", "--exp=edge2image", "--base=pocket"]
    assert pretended == [
        [*common, f"--data={tmp_path}/day2night/{d}/pairs", f"--data.init_args.caption={prompt}", "--x=1"]
        for d, prompt in (("b2a", "driving in the day"), ("a2b", "driving in the night"))
    ]
    written = json.loads((tmp_path / "copy.json").read_text())
    assert written == json.loads((tmp_path / "table.json").read_text())
    (found,) = written["rows"]
    assert found["of_copying"] == pytest.approx({"fid": 0.25, "lpips_truth": 0.8})
    assert written["failures"] == {f"{tmp_path}/day2night/b2a/seed0.log": "error: no room"}
    out = capsys.readouterr().out
    assert "| day2night a2b | 30 | 0.25 | 0.0400 | 0.80 | 20.0 | 1200 |" in out
    assert "b2a seed 0: FAILED: error: no room" in out
    # What is finished is not run again.
    assert supervised.main(flags) == 1
    assert len(pretended) == 3
    assert "a2b seed 0: training" not in capsys.readouterr().out
