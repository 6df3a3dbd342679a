"""Trials and the progress table without a cluster; `tests/commands/test_ablate.py` runs one."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
from ray.cluster_utils import Cluster as RayCluster
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from ablation.engine import Cluster, ProgressTable
from ablation.trials import Trial, TrialFailedError, images_seen, last_error, missing, train
from ray_cluster import fit

TRIALS = [Trial(f"p{k}", {"p": str(k)}, 0, f"/none/p{k}/seed0", []) for k in range(4)]


def ray_trial(k, trials=TRIALS):
    return SimpleNamespace(config={"trial": asdict(trials[k])})


def test_time_left_counts_what_runs_and_what_waits():
    table = ProgressTable(TRIALS, images=100, at_once=2)
    assert table.seconds_left() is None
    for k in range(2):
        table.on_trial_start(0, [], ray_trial(k))
    table.on_trial_result(0, [], ray_trial(0), {"images": 0, "new": 0, "seconds": 30.0})
    assert table.seconds_left() is None, "nothing was seen yet"
    table.on_trial_result(0, [], ray_trial(0), {"images": 50, "new": 50, "seconds": 100.0})
    # 2 s an image: 50 left of p0, 100 each of three others, two at a time
    assert table.seconds_left() == (50 + 300) * 2 / 2
    table.on_trial_complete(0, [], ray_trial(0))
    table.on_trial_complete(0, [], ray_trial(1))
    table.on_trial_complete(0, [], ray_trial(2))
    table.on_trial_start(0, [], ray_trial(3))
    assert table.seconds_left() == 200, "the last one runs alone"
    table.on_trial_complete(0, [], ray_trial(3))
    assert table.seconds_left() == 0


def test_images_are_counted_across_the_event_files_of_a_resumed_run_and_each_event_read_once(tmp_path, monkeypatch):
    read = []
    process = EventAccumulator._ProcessEvent

    def recorded(self, event):
        read.append(event)
        process(self, event)

    monkeypatch.setattr(EventAccumulator, "_ProcessEvent", recorded)
    events = EventAccumulator(str(tmp_path), size_guidance={"scalars": 1})
    assert images_seen(events) == 0
    for attempt, steps in enumerate([(1, 3), (4,)]):
        with SummaryWriter(str(tmp_path), filename_suffix=f".{attempt}") as writer:
            for step in steps:
                writer.add_scalar("perf/images_per_s", 2.0, step)
                writer.flush()
                assert images_seen(events) == step
    steps = [event.step for event in read if event.HasField("summary")]
    assert steps == [1, 3, 4]


def test_a_resumed_trials_pace_is_that_of_its_new_images():
    table = ProgressTable(TRIALS[:1], images=100, at_once=1)
    table.on_trial_start(0, [], ray_trial(0))
    table.on_trial_result(0, [], ray_trial(0), {"images": 80, "new": 10, "seconds": 30.0})
    assert table.seconds_left() == 20 * 3


def test_a_failure_is_told_at_once_and_by_name(tmp_path, capsys):
    trials = [trial(tmp_path), trial(tmp_path, seed=1, folder=str(tmp_path / "p" / "seed1"))]
    trials[0].log.parent.mkdir()
    trials[0].log.write_text("error: disk full\n")
    table = ProgressTable(trials, images=100, at_once=2)
    for k in range(2):
        table.on_trial_start(0, [], ray_trial(k, trials))
        table.on_trial_error(0, [], ray_trial(k, trials))
    assert table.errors == {"p/seed0": f"error: disk full ({trials[0].log})", "p/seed1": "it never started"}
    said = capsys.readouterr().out
    assert "p/seed0" in said and "failed" in said and "disk full" in said


def trial(tmp_path, **changes):
    return Trial(
        **{"point": "p", "labels": {}, "seed": 0, "folder": str(tmp_path / "p" / "seed0"), "arguments": [], **changes}
    )


def test_a_trial_is_an_ordinary_command_and_its_failure_has_its_words(tmp_path):
    reports = []
    with pytest.raises(TrialFailedError, match=r"error: Unknown experiment 'none'.*seed0\.log"):
        train(trial(tmp_path, arguments=["--exp=none"]), reports.append, threads=1)
    assert reports and reports[0]["images"] == 0
    assert (tmp_path / "p" / "seed0.json").is_file()


def test_an_interrupted_trial_is_resumed_and_a_fresh_one_started(tmp_path):
    one = trial(tmp_path, arguments=["--exp=clear2foggy"])
    assert one.command()[1:] == ["-m", "commands.train", "--exp=clear2foggy", f"--run={one.folder}"]
    (tmp_path / "p" / "seed0" / "checkpoints").mkdir(parents=True)
    (tmp_path / "p" / "seed0" / "checkpoints" / "last.ckpt").touch()
    assert one.command()[1:] == ["-m", "commands.resume", f"--run={one.folder}"]


def test_only_what_has_not_finished_is_missing(tmp_path):
    done, open_one = trial(tmp_path), trial(tmp_path, seed=1, folder=str(tmp_path / "p" / "seed1"))
    (tmp_path / "p" / "seed0").mkdir(parents=True)
    (tmp_path / "p" / "seed0" / "metrics.json").write_text("{}")
    done.record.write_text('{"arguments": []}')
    assert missing([done, open_one]) == [open_one]
    done.record.unlink()
    with pytest.raises(ValueError, match=r"seed0\.json is missing"):
        missing([done])


def test_other_settings_are_refused_before_a_cut_off_trial_goes_on_with_the_old_ones(tmp_path):
    one = trial(tmp_path, arguments=["--exp=day2night"])
    (tmp_path / "p" / "seed0" / "checkpoints").mkdir(parents=True)
    (tmp_path / "p" / "seed0" / "checkpoints" / "last.ckpt").touch()
    one.record.write_text('{"arguments": ["--exp=clear2foggy"]}')
    with pytest.raises(ValueError, match="--exp=day2night is new"):
        missing([one])
    one.record.write_text('{"arguments": ["--exp=day2night"]}')
    assert missing([one]) == [one]
    later = replace(one, recipe="0123")
    with pytest.raises(ValueError, match="files have changed"):
        missing([later])
    one.record.write_text(json.dumps(asdict(later)))
    assert missing([later]) == [later]


@pytest.mark.parametrize(
    ("cores", "gpus", "fits"),
    [(1, 0, 8), (3, 0, 2), (4, 1, 2), (1, 0.5, 4), (1, 0.6, 2), (1, 2, 1), (9, 0, 0), (1, 3, 0)],
)
def test_what_fits_on_a_machine_of_eight_cores_and_two_gpus(cores, gpus, fits):
    assert fit({"CPU": 8.0, "GPU": 2.0}, cores, gpus) == fits


def test_a_trial_is_no_rank_of_the_job_around_it_and_sees_only_gpus_that_it_was_given(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    code = "import os; print(sorted((k, v) for k, v in os.environ.items() if k[:5] in ('SLURM', 'CUDA_', 'OMP_N')))"
    monkeypatch.setattr(Trial, "command", lambda self: [sys.executable, "-c", code])
    for gpus, seen in ((0, ""), (1, "5")):
        with pytest.raises(TrialFailedError):
            train(trial(tmp_path), lambda progress: None, threads=3, gpus=gpus)
        expected = [("CUDA_VISIBLE_DEVICES", seen), ("OMP_NUM_THREADS", "3")]
        assert last_error(trial(tmp_path).log) == str(expected)


def test_the_last_error_is_of_the_last_attempt(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("$ python\nerror: disk full\n$ python\nKilled\n")
    assert last_error(log) == "Killed"


def test_the_last_error_is_the_last_line_that_says_error(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("start\nerror: no disk\n  50%|####\r 60%|#####\n")
    assert last_error(log) == "error: no disk"
    log.write_text("")
    assert last_error(log) == "no output"


INTERRUPTED = """
import sys
from pathlib import Path
from ablation.engine import Cluster
from ablation.trials import Trial
here = Path(sys.argv[1])
names = [f"p{k}" for k in range(40)]  # more than start at once
trials = [Trial(name, {}, 0, str(here / name / "seed0"), ["--exp=clear2foggy"]) for name in names]
Cluster(None, 1, None).run(trials, None, here)
"""


@pytest.mark.slow
def test_an_interruption_does_not_send_the_user_to_ray(tmp_path):
    words = [sys.executable, "-u", "-c", INTERRUPTED, str(tmp_path)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, start_new_session=True, **streams) as grid:
        next(line for line in grid.stdout if " runs, " in line)
        grid.send_signal(signal.SIGINT)
        rest = grid.communicate(timeout=120)[0]
    assert rest.rstrip().endswith("KeyboardInterrupt")
    assert "Tuner" not in rest
    assert "Failed to fetch" not in rest


@pytest.mark.slow
def test_trials_spread_over_the_nodes_of_a_cluster_that_is_there(tmp_path, capsys):
    """Two nodes of one core each: two trials of one core run side by side on both, or not at all."""
    nodes = RayCluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        nodes.add_node(num_cpus=1)
        with pytest.raises(ValueError, match="it takes 3 cores and 0 GPUs of one machine, and there are 1 and 0"):
            Cluster(nodes.address, cores=3, gpus=None)
        cluster = Cluster(nodes.address, cores=None, gpus=None)
        assert cluster.at_once == 2
        folders = [str(tmp_path / f"p{k}" / "seed0") for k in range(2)]
        trials = [Trial(f"p{k}", {}, 0, folder, ["--exp=none"]) for k, folder in enumerate(folders)]
        errors = cluster.run(trials, None, tmp_path)
        cluster.close()
    finally:
        nodes.shutdown()
    assert {name: "Unknown experiment 'none'" in error for name, error in errors.items()} == {
        "p0/seed0": True,
        "p1/seed0": True,
    }
    assert "0 done, 2 runs, 0 waits" in capsys.readouterr().out


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "host:port"])
def test_no_cluster_at_an_address_is_said(address):
    with pytest.raises(ValueError, match=f"No Ray cluster at {address}"):
        Cluster(address, cores=1, gpus=None)
