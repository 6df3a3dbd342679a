"""A new run's folder: a number of its own, nothing left of a mistake; what cannot be written is refused at once."""

import multiprocessing
import subprocess
from pathlib import Path

import pytest

from commands import ablate, check_data, data, evaluate, export, train, translate
from commands.cli.paths import RUN_FOLDER, new_run_folder, shared_with_ranks

from .conftest import QUICK

PARENT = Path("runs/clear2foggy/pocket")
FORK = multiprocessing.get_context("fork")
FOLDERS = 100


def take_folders(barrier, numbers):
    for _ in range(FOLDERS):
        barrier.wait(30)
        with new_run_folder(None, PARENT) as folder:
            (folder / "config.yaml").touch()
            numbers.put(int(folder.name.removeprefix("version_")))


def test_trainings_started_together_get_numbers_of_their_own(tmp_path):
    barrier, numbers = FORK.Barrier(2), FORK.SimpleQueue()
    other = FORK.Process(target=take_folders, args=(barrier, numbers))
    other.start()
    take_folders(barrier, numbers)
    other.join(30)
    assert other.exitcode == 0
    assert sorted(numbers.get() for _ in range(2 * FOLDERS)) == list(range(2 * FOLDERS)), "no number twice or left out"


def test_the_next_number_comes_after_the_highest(tmp_path):
    (PARENT / "version_7").mkdir(parents=True)
    (PARENT / "version_best").mkdir()
    with new_run_folder(None, PARENT) as folder:
        assert folder == PARENT.absolute() / "version_8" and folder.is_dir()


@pytest.mark.parametrize("given", [None, "runs/deep/mine"])
def test_a_mistake_leaves_no_empty_folder(given, tmp_path):
    with pytest.raises(ValueError, match="a mistake"), new_run_folder(given, PARENT):
        raise ValueError("a mistake")
    assert not any(tmp_path.iterdir())
    (PARENT / "version_0").mkdir(parents=True)
    with pytest.raises(ValueError, match="a mistake"), new_run_folder(given, PARENT) as folder:
        (folder / "config.yaml").touch()
        raise ValueError("a mistake")
    assert (folder / "config.yaml").is_file()


def test_a_training_that_cannot_work_leaves_no_folder(two_level_base, folder_of_two_domains, tmp_path, capsys):
    words = ["--exp=clear2foggy", f"--base={two_level_base}", f"--data={folder_of_two_domains}", *QUICK]
    assert train.main([*words, "--data.init_args.crop=99"]) == 2
    assert "crop" in capsys.readouterr().err and not any(tmp_path.iterdir())


def test_ranks_share_the_folder_of_the_first(monkeypatch, tmp_path):
    with new_run_folder(None, PARENT) as folder, shared_with_ranks(folder):
        with new_run_folder(None, PARENT) as same:
            assert same == folder
    monkeypatch.delenv(RUN_FOLDER, raising=False)
    for variable in ("RANK", "SLURM_PROCID"):
        with monkeypatch.context() as environment, new_run_folder("mine", PARENT) as folder:
            (folder / "config.yaml").touch()
            environment.setenv(variable, "3")
            with new_run_folder("mine", PARENT) as same:
                assert same == folder, "a rank that starts later is not refused for what the first has written"
            with new_run_folder(None, PARENT):
                assert not PARENT.exists(), "it makes no folder of its own"
        (folder / "config.yaml").unlink()


@pytest.fixture
def read_only(tmp_path):
    """A disk that nobody may write to, root included; needs the right to mount."""
    folder = tmp_path / "read_only"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("command", [train, evaluate, export, translate, check_data, ablate, data])
def test_what_cannot_be_written_is_known_before_the_work(
    command, read_only, finished, folder_of_two_domains, tmp_path, capsys
):
    adapter, images = f"--ckpt={finished / 'adapter'}", f"--data={folder_of_two_domains}"
    words = {
        train: ["--exp=clear2foggy", images, "--run"],
        evaluate: [adapter, "--exp=clear2foggy", images, "--out"],
        export: [adapter, "--format=released", "--out"],
        translate: [adapter, f"--in={folder_of_two_domains / 'test_A'}", "--out"],
        check_data: ["--exp=clear2foggy", images, "--out"],
        ablate: ["--grid=design", "--yes", "--out"],
        data: ["--name=horse2zebra", "--out"],
    }[command]
    (tmp_path / "file").touch()
    for parent, why in ((read_only, "no permission to write in"), (tmp_path / "file", "is a file, not a folder")):
        target = parent / "deep" / ("sheet.png" if command is check_data else "folder")
        assert command.main([*words, str(target)]) == 2
        said = capsys.readouterr().err.strip()
        assert str(target) in said and why in said and str(parent) in said and "\n" not in said


def test_a_folder_in_the_place_of_a_result_is_known_before_the_work(finished, tmp_path, capsys):
    (tmp_path / "out" / "report.html").mkdir(parents=True)
    assert evaluate.main([f"--ckpt={finished / 'adapter'}", "--exp=clear2foggy", f"--out={tmp_path / 'out'}"]) == 2
    assert "report.html cannot be written: it is a folder" in capsys.readouterr().err
