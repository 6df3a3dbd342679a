"""The counted memory: against real tensors, and in the directions that settings must move it."""

import gc
import io
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch

from commands.cli.lightning_cli import TrainCLI
from commands.cli.recipes import compose
from commands.estimate import main
from lightning_modules.memory import PeakMemory, prepare, random_batch

MB = 2**20


def figures(*arguments, exp="clear2foggy"):
    with redirect_stdout(io.StringIO()) as out:
        assert main(["--exp", exp, *arguments]) == 0
    lines = [line.rsplit(None, 2) for line in out.getvalue().splitlines() if line.endswith(" MB")]
    return {name.strip(): int(value.replace(",", "")) for name, value, _ in lines}


def test_bytes_are_counted_while_somebody_holds_them():
    with PeakMemory() as counter:
        x = torch.zeros(MB // 4)
        view = x[10:]
        y = x + 1
        assert (counter.live, counter.peak) == (2 * MB, 2 * MB)
        del x
        assert counter.live == 2 * MB  # the view holds it
        del view, y
        gc.collect()
        assert (counter.live, counter.peak) == (0, 2 * MB)


def test_saved_activations_live_until_backward():
    weight = torch.ones(256, 256, requires_grad=True)
    with PeakMemory() as counter:
        x = torch.zeros(256, 256)
        loss = (x @ weight).exp().sum()
        assert counter.live >= 2 * x.nbytes  # the input and what exp saved
        del x
        before = counter.live
        loss.backward()
        assert counter.live < before + weight.nbytes
        assert weight.grad is not None


PAIRS = ("--size=64", "--batch=1", "--data.init_args.eval_batch_size=1")


@pytest.fixture(scope="module")
def plain():
    """Figures of pairs with the settings as they are."""
    return figures(*PAIRS, exp="edge2image")


@pytest.mark.long
def test_the_parts_add_up_and_checkpointing_and_rank_move_them(plain):
    parts = {name: value for name, value in plain.items() if name not in ("validation", "peak")}
    assert abs(plain["peak"] - sum(parts.values())) <= len(parts)
    generator = "--model.init_args.generator.init_args"
    # Compiled blocks are counted as they are.
    more = (f"{generator}.checkpointing=true", f"{generator}.compile_blocks=true")
    saving = figures(*PAIRS, *more, exp="edge2image")
    assert saving["activations at the peak"] < 0.8 * plain["activations at the peak"]
    assert saving["trained weights"] == plain["trained weights"]
    small = figures(*PAIRS, f"{generator}.rank_unet=1", exp="edge2image")
    assert small["trained weights"] < plain["trained weights"]
    assert plain["their optimisers"] == pytest.approx(2 * plain["trained weights"], abs=2)


@pytest.mark.parametrize("exp", ["edge2image", "horse2zebra"])
def test_plain_networks_are_counted_too(exp):
    elsewhere = ("--trainer.devices=512", "--trainer.num_nodes=2")  # an estimate is per GPU, wherever it is made
    found = figures("--base=resnet", *PAIRS, *elsewhere, exp=exp)
    assert found["their optimisers"] == pytest.approx(2 * found["trained weights"], abs=2)
    assert found["peak"] >= found["trained weights"] + found["their gradients"] + found["their optimisers"] - 2


@pytest.mark.long
def test_batches_towards_a_step_keep_their_gradients_beside_the_optimisers(plain):
    four = figures(*PAIRS, "--model.init_args.accumulate=4", exp="edge2image")
    assert four["their optimisers"] == plain["their optimisers"]
    assert four["peak"] == pytest.approx(plain["peak"] + plain["their gradients"], abs=3)


@pytest.mark.long
def test_validation_is_counted_with_its_networks(plain):
    # lite1: training looks at it too
    shared = [f"--evaluation.{role}=lite1" for role in ("features", "structure", "lpips")]
    four = figures(*PAIRS, "--data.init_args.eval_batch_size=4", *shared, exp="edge2image")
    assert plain["networks of evaluation"] > four["networks of evaluation"] == 0
    assert four["validation"] > plain["validation"] - plain["networks of evaluation"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("exp", "memory", "size", "limit"),
    [
        ("clear2foggy", "8gb", 256, 7000),
        ("clear2foggy", "8gb", 512, 11000),
        ("clear2foggy", "12gb", 256, 11000),
        ("clear2foggy", "24gb", 512, 15000),
        ("edge2image", "8gb", 512, 7000),
        ("edge2image", "12gb", 512, 11000),
        ("edge2image", "24gb", 512, 22000),
    ],
)
def test_full_size_fits_the_cards_that_people_have(exp, memory, size, limit):
    """At the profile's batch; a gigabyte or more is left for what tensors do not show."""
    found = figures("--base=sd-turbo", f"--memory={memory}", f"--size={size}", exp=exp)
    assert found["peak"] < limit
    assert found["validation"] < limit


@pytest.mark.long
@pytest.mark.parametrize(("size", "batch"), [(64, 2), pytest.param(96, 1, marks=pytest.mark.slow)])
def test_the_estimate_is_what_real_tensors_take(size, batch):
    """The same step on real tensors, counted the same way: shapes alone give the bytes."""
    values = {"resize": size, "crop": size, "batch_size": batch}
    flags = [f"--data.init_args.{name}={value}" for name, value in values.items()]
    counted = figures(*flags)["peak"]
    recipe = compose("clear2foggy", "pocket")
    counter = PeakMemory()
    with counter:
        module = TrainCLI(Path("runs/a/b/version_0"), [*recipe.arguments, *flags]).model
        prepare(module)
        for _ in range(2):
            gc.collect()
            counter.peak = counter.live
            module.training_step(random_batch(module, batch, size), 0)
    assert counted == pytest.approx(counter.peak / MB, rel=0.25)
