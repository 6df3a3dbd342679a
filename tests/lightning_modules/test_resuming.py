"""A checkpoint that lacks part of a training's state is refused before anything is built; optimisers are as set."""

import functools
import shutil
from pathlib import Path

import pytest
import torch

from commands import resume
from lightning_modules.resuming import ENTRIES, check_resumable
from networks.checkpoints.adapter import read_checkpoint

from .conftest import adamw

RUN = Path(__file__).parents[1] / "networks" / "checkpoints" / "version_0_run"


@pytest.fixture(scope="module")
def checkpoint():
    return read_checkpoint(RUN / "checkpoints" / "last.ckpt")


def test_a_whole_one_passes_and_leaves_the_random_states(checkpoint):
    before = torch.get_rng_state()
    check_resumable(checkpoint, "last.ckpt")
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("value", ["missing", None, "x", [1]])
def test_entries_that_are_missing_or_of_another_type_are_named(checkpoint, entry, value):
    if value == "missing":
        broken = {name: content for name, content in checkpoint.items() if name != entry}
    elif isinstance(value, ENTRIES[entry]) and ENTRIES[entry] is str:
        pytest.skip("a text is right")
    else:
        broken = checkpoint | {entry: value}
    if entry == "lr_schedulers" and value == [1]:
        pytest.skip("a list is right")
    with pytest.raises(ValueError, match=r"^last\.ckpt cannot be resumed: ") as caught:
        check_resumable(broken, "last.ckpt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("progress", {"images_seen": -1, "batches_seen": 0}, "progress.images_seen is -1"),
        ("progress", {"images_seen": 1}, "progress.batches_seen is None"),
        ("rng", [], "random states"),
        ("rng", [{"torch": torch.zeros(3)}], "random states"),
        ("gradients", {"a": 1}, "'gradients' must hold tensors"),
        ("optimizer_states", [{"state": {}}], "an optimiser's state"),
    ],
)
def test_values_that_no_training_writes_are_named(checkpoint, entry, value, words):
    with pytest.raises(ValueError, match=words):
        check_resumable(checkpoint | {entry: value}, "last.ckpt")


@pytest.fixture
def run(tmp_path):
    """A copy of a run, at its usual place."""
    return Path(shutil.copytree(RUN, tmp_path / "exp" / "base" / "version_0"))


def test_resume_says_it_in_a_line(run, capsys):
    content = torch.load(RUN / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({k: v for k, v in content.items() if k != "rng"}, run / "checkpoints" / "last.ckpt")
    assert resume.main([f"--run={run}"]) == 2
    assert "cannot be resumed: its entry 'rng' is missing" in capsys.readouterr().err


def test_resumed_optimisers_take_the_settings_of_the_configuration(unpaired):
    """All but the rate, which the next step sets by the schedule."""
    before = unpaired(optimizer=adamw(weight_decay=0.1)).configure_optimizers()
    after = unpaired(optimizer=adamw(weight_decay=0.2, betas=(0.5, 0.9), lr=1.0)).configure_optimizers()
    for own, saved in zip(after, before, strict=True):
        saved.param_groups[0]["lr"] = 5e-5  # in the middle of a rise
        own.load_state_dict(saved.state_dict())
        group = own.param_groups[0]
        assert (group["lr"], group["weight_decay"], group["betas"]) == (5e-5, 0.2, (0.5, 0.9))


class Counting(torch.optim.SGD):
    """Keeps a count in its groups, as some optimisers of other packages do."""

    def __init__(self, params, lr):
        super().__init__(params, lr)
        self.param_groups[0]["count"] = 0


def test_what_an_optimiser_keeps_in_its_groups_stays(unpaired):
    saved, own = (unpaired(optimizer=functools.partial(Counting, lr=1.0)).configure_optimizers()[0] for _ in range(2))
    saved.param_groups[0]["count"] = 7
    own.load_state_dict(saved.state_dict())
    assert own.param_groups[0]["count"] == 7


@pytest.mark.parametrize(
    "words",
    [
        ["--model.init_args.optimizer_d=torch.optim.SGD"],
        ["--model.init_args.optimizer_d.class_path", "SGD"],
        ['--model.init_args.optimizer_d={"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}'],
    ],
)
def test_another_optimiser_is_refused_before_the_runs_settings_change(run, words, capsys):
    before = (run / "config.yaml").read_text()
    assert resume.main([f"--run={run}", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "SGD, and the checkpoint holds the state of torch.optim.AdamW: leave it as it is" in line
    assert (run / "config.yaml").read_text() == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--evaluation.features=lite0"], "evaluation.features is random in this run, and scores of lite0"),
        (["--evaluation", "{lpips: lite0}"], "evaluation.lpips is random in this run, and scores of lite0"),
        (["--data.init_args.eval_size=64"], "data.eval_size is 32 in this run, and scores of 64"),
    ],
)
def test_scores_that_cannot_be_compared_are_refused_before_the_runs_settings_change(run, words, says, capsys):
    before = (run / "config.yaml").read_text()
    assert resume.main([f"--run={run}", "--evaluation.structure=random", *words]) == 2  # one is as it was
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
    assert (run / "config.yaml").read_text() == before
