"""``make ablate``: what it refuses before anything starts, and one small grid from end to end."""

import json

import pytest
import yaml
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

from commands import ablate
from commands.cli.recipes import Recipe

from .conftest import QUICK

TINY = {
    "experiment": "clear2foggy",
    "axes": {
        "start": {
            "zeros": {"model.init_args.generator.init_args.skip_init": 0.0},
            "gaussian": {"model.init_args.generator.init_args.skip_init": "gaussian"},
        },
        "images": {
            "all": {},
            "none": {"data.init_args.train_limit": 4, "model.init_args.generator.init_args.init": "no-adapter"},
        },
    },
    "exclude": [{"start": "gaussian", "images": "none"}],
    "settings": {"model.init_args.max_images": 2, "trainer.val_check_interval": 2},
}


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """Writes a grid's file and gives the arguments that run it."""
    monkeypatch.setattr(ablate, "GRIDS", tmp_path / "grids")
    (tmp_path / "grids").mkdir()

    def write(**changes):
        (tmp_path / "grids" / "tiny.yaml").write_text(yaml.safe_dump({**TINY, **changes}, sort_keys=False))
        return ["--grid=tiny"]

    return write


@pytest.mark.long
def test_a_grid_runs_shows_what_fails_and_goes_on(
    grid, two_level_base, folder_of_two_domains, tmp_path, capsys, monkeypatch
):
    words = [*grid(), f"--base={two_level_base}", f"--data={folder_of_two_domains}", *QUICK]
    assert ablate.main(words) == 1, "a trial that cannot work was asked for"
    said = capsys.readouterr().out
    assert "3 trials" in said and "1 failed" in said
    assert "failed: start-zeros_images-none/seed0: error: No checkpoint at no-adapter: " in said
    folder = tmp_path / "runs" / "ablate" / "tiny"
    rows = (folder / "table.csv").read_text().splitlines()
    assert rows[0].startswith("start,images,seed,fid_a2b,fid_b2a")
    assert [row.split(",")[:3] for row in rows[1:]] == [["zeros", "all", "0"], ["gaussian", "all", "0"]]
    for name in ("table.md", "report.png", "report.html"):
        assert (folder / name).is_file()
    run = folder / "start-zeros_images-all" / "seed0"
    card = json.loads((run / "adapter" / "adapter.json").read_text())
    assert card["ablation"] == {"start": "zeros", "images": "all"}
    assert card["settings"]["skip_init"] == 0.0 and card["images_seen"] == 2
    board = EventAccumulator(str(run)).Reload()
    content = board.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"zeros" in content, "HParams shows the trial's place on the axes"

    assert ablate.main(words) == 2
    assert "holds 2 of these 3 trials: RESUME=1 runs what is missing" in capsys.readouterr().err

    before = (run / "metrics.json").stat().st_mtime_ns
    grid(axes={**TINY["axes"], "images": {"all": {}, "none": {"data.init_args.train_limit": 1}}})
    assert ablate.main([*words, "--resume"]) == 0
    assert "1 trials" in capsys.readouterr().out
    assert (run / "metrics.json").stat().st_mtime_ns == before, "what had finished was left alone"
    assert len((folder / "table.csv").read_text().splitlines()) == 4

    grid(settings={**TINY["settings"], "model.init_args.max_images": 3})
    assert ablate.main([*words, "--resume"]) == 2
    error = capsys.readouterr().err
    assert "was trained with other settings (--model.init_args.max_images=3 is new)" in error

    grid(axes={**TINY["axes"], "images": {"all": {}, "none": {"data.init_args.train_limit": 1}}})
    monkeypatch.setattr(Recipe, "config", {"model": "of a later release"})
    assert ablate.main([*words, "--resume"]) == 2
    assert "the experiment's files have changed" in capsys.readouterr().err


GENERATOR = "model.init_args.generator.init_args"


@pytest.mark.parametrize(
    ("changes", "more", "says"),
    [
        (
            {"axes": {"a": {"b": {f"{GENERATOR}.rnak_unet": 3}}}, "exclude": []},
            [],
            ".rnak_unet' is not known. Did you mean 'rank_unet'",
        ),
        ({"axes": {"a": {"b": {}, "c": {f"{GENERATOR}.rank_unet": "many"}}}, "exclude": []}, [], "a-c: "),
        ({"experiment": "clear2fogy"}, [], "Unknown experiment 'clear2fogy'"),
        ({}, ["--data.init_args.train_limit=4"], "would undo an axis or the seeds of grid tiny"),
        ({}, ["--data.init_args={}"], "would undo an axis or the seeds of grid tiny"),
        ({}, ["--seed_everything=7"], "would undo an axis or the seeds of grid tiny"),
        ({"settings": {"seed_everything": 3}}, [], "sets seed_everything: say `seeds: [...]`"),
        ({}, ["--memory=13gb"], "Unknown memory profile '13gb'"),
        ({}, ["--grid=tinny"], "Unknown grid 'tinny'. Did you mean 'tiny'?"),
        ({}, ["--base=sd-turbo"], "DATA is not given"),
        ({}, ["--seeds=0"], "SEEDS is the number of seeds, at least 1"),
        ({}, ["--seeds=20"], "Grid tiny is 60 trials of 2 images each. Go ahead with YES=1"),
        ({}, ["--cores=4000"], "Not even one trial fits: it takes 4000 cores"),
        (
            {},
            ["--model.init_args.wieghts.gan=1"],
            ".wieghts.gan' is not known. Did you mean 'weights'?",
        ),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(changes, more, says, grid, tmp_path, capsys):
    assert ablate.main([*grid(**changes), *more]) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_cost_of_many_trials_is_told_from_those_that_are_there(grid, tmp_path, capsys):
    done = tmp_path / "runs" / "ablate" / "tiny" / "an-earlier-point" / "seed0"
    done.mkdir(parents=True)
    (done / "metrics.json").write_text(json.dumps({"wall_s": 360.0}))
    assert ablate.main([*grid(), "--seeds=20", "--resume"]) == 2
    assert "60 trials of 2 images each, 6.0 hours of training at the pace of the 1 finished ones" in (
        capsys.readouterr().err
    )
