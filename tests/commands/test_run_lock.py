"""A run folder belongs to one training at a time."""

import fcntl
import subprocess
import sys

import pytest

from commands import train
from storage import lock_folder

from .conftest import QUICK


def test_a_second_training_in_a_folder_is_refused_in_a_line(two_level_base, folder_of_two_domains, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--exp=clear2foggy", f"--base={two_level_base}", f"--data={folder_of_two_domains}", f"--run={run}"]
    with lock_folder(run):
        assert train.main([*words, *QUICK, "--model.init_args.max_images=1"]) == 2
        assert not list(run.iterdir())
    error = capsys.readouterr().err
    assert "Another training uses" in error
    assert str(run) in error


def test_a_folder_is_free_again_after_an_error_and_after_a_killed_process(tmp_path):
    with pytest.raises(KeyError), lock_folder(tmp_path):
        raise KeyError
    code = "import sys, time; from storage import lock_folder; from pathlib import Path\n"
    code += "with lock_folder(Path(sys.argv[1])): print('held', flush=True); time.sleep(600)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="Another training"), lock_folder(tmp_path):
        pass
    other.kill()
    other.communicate()
    with lock_folder(tmp_path):
        pass


def test_a_file_system_without_locks_does_not_stop_a_training(tmp_path, monkeypatch):
    def unsupported(handle, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with lock_folder(tmp_path):
        (tmp_path / "trained").touch()
    assert (tmp_path / "trained").is_file()
