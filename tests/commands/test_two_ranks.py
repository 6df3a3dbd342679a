"""Two gloo ranks: the gradients of one rank with both images, and the whole command."""

import json
import math
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commands import train
from commands.cli.recipes import compose

from .conftest import QUICK, arguments, chosen
from .test_terminal import HEADER, NOISE, command, redirected

GRADIENTS = """
import json, sys
import torch
from pathlib import Path
from torch.profiler import ProfilerActivity, profile
from commands.cli.lightning_cli import TrainCLI
from lightning_modules import CycleGANTurbo

name, *common = sys.argv[1:]

def keep(self, player):
    self.runtime.average_gradients(self.runtime.optimizers()[player == "discriminators"])
    if player == "generator":
        found = {n: p.grad.clone() for n, p in self.generator.named_parameters() if p.grad is not None}
    else:
        found = {n: p.grad.clone() for n, p in self.discriminators.named_parameters() if p.grad is not None}
    torch.save(found, f"{name}-{self.update}-{player}-rank{self.global_rank}.pt")

def measured(self, batch, batch_idx):
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as recorded:
        result = training_step(self, batch, batch_idx)
    events = recorded.profiler.kineto_results.events()  # recorded.events() sorts all of them, for seconds
    exchanged = [(e.name(), e.shapes()) for e in events if e.name().startswith("gloo:")]
    trained = sum(p.numel() for p in self.parameters() if p.requires_grad)
    Path(f"{name}-{self.update}-exchanged-rank{self.global_rank}.json").write_text(json.dumps([exchanged, trained]))
    return result

CycleGANTurbo.step = keep
training_step, CycleGANTurbo.training_step = CycleGANTurbo.training_step, measured
for update in ("fused", "split"):
    cli = TrainCLI(Path("run").absolute() / "a" / "b" / update, [*common, f"--model.init_args.update={update}"])
    cli.trainer.fit(cli.model, cli.datamodule)
"""


def test_two_ranks_of_one_image_have_the_gradients_of_one_rank_of_two(two_level_base, folder_of_two_domains, tmp_path):
    recipe = compose("clear2foggy", str(two_level_base))
    common = [
        *recipe.arguments,
        f"--data.init_args.root={folder_of_two_domains}",
        *QUICK,
        "--model.init_args.max_images=2",
        "--trainer.limit_val_batches=0",
        "--trainer.log_every_n_steps=0",
        "--trainer.callbacks=[]",
    ]
    (tmp_path / "gradients.py").write_text(GRADIENTS)
    environment = os.environ | {"PYTHONPATH": os.getcwd() + os.pathsep + str(train.__file__).rsplit("/", 2)[0]}
    for name, flags in {
        "one": ["--data.init_args.batch_size=2"],
        "two": ["--data.init_args.batch_size=1", "--trainer.devices=2"],
    }.items():
        command = [sys.executable, "gradients.py", name, *common, *flags]
        subprocess.run(command, check=True, env=environment, timeout=300, capture_output=True)
    for update, backwards in {"fused": 1, "split": 4}.items():
        for player in ("generator", "discriminators"):
            one = torch.load(f"one-{update}-{player}-rank0.pt")
            ranks = [torch.load(f"two-{update}-{player}-rank{r}.pt") for r in (0, 1)]
            assert one.keys() == ranks[0].keys() == ranks[1].keys()
            total = torch.stack([gradient.norm() for gradient in one.values()]).norm()
            for name, gradient in one.items():
                assert torch.equal(ranks[0][name], ranks[1][name]), (update, name)
                # A bias before instance norm has no gradient but rounding.
                difference = (ranks[0][name] - gradient).norm()
                assert difference <= 1e-4 * gradient.norm() + 1e-7 * total, (update, name)
        # Each gradient travels once, however many backwards a step has.
        for rank in (0, 1):
            exchanged, trained = json.loads((tmp_path / f"two-{update}-exchanged-rank{rank}.json").read_text())
            sizes = {"gloo:all_reduce": [], "gloo:all_gather": []}
            for name, shapes in exchanged:
                sizes[name] += [math.prod(shape) for shape in shapes]
            assert sum(sizes["gloo:all_reduce"]) == trained
            assert sizes["gloo:all_gather"] == [1] * (backwards + 1), "only whether every loss is finite"


@pytest.fixture(scope="module")
def two_rank_run(two_level_base, folder_of_two_domains, tmp_path_factory):
    """Run folder of two ranks and what the command wrote: three files to validate on, one to test on in each domain.

    Lightning skips a rank without batches; the other one waited for its scores for ever.
    """
    data, run = tmp_path_factory.mktemp("two_ranks") / "data", tmp_path_factory.mktemp("two_ranks") / "run"
    shutil.copytree(folder_of_two_domains, data)
    for domain in "AB":
        (data / f"val_{domain}").mkdir()
        for number in (1, 2, 3):
            (data / f"test_{domain}" / f"{number}.png").rename(data / f"val_{domain}" / f"{number}.png")
        (data / f"test_{domain}" / "4.png").unlink()
    more = ("--trainer.devices=2", "--model.init_args.max_images=4", "--trainer.val_check_interval=1", *chosen("min"))
    return redirected(command("commands.train", arguments(two_level_base, data, run, *more)), run.parent), run


def test_two_ranks_train_through_the_command(two_rank_run):
    """No other change than the number of devices; every image is measured once."""
    _, run = two_rank_run
    metrics = json.loads((run / "metrics.json").read_text())
    assert (metrics["images_seen"], metrics["batches"]) == (4, 2)
    assert metrics["best"]["images_seen"] == 2
    for direction in ("a2b", "b2a"):
        for block in (metrics[direction], metrics["best"][direction]):
            assert (block["n_real"], block["n_fake"]) == (1, 1)
        assert metrics["best"][direction]["structure"] != metrics[direction]["structure"]
    assert json.loads((run / "adapter" / "adapter.json").read_text())["images_seen"] == 4
    events = EventAccumulator(str(run), size_guidance={"histograms": 0}).Reload()
    for tag, images in (("val", 3), ("test", 1), ("best", 1)):
        drawn = events.Histograms(f"{tag}/per_image/structure_b2a")
        assert all(h.histogram_value.num == images for h in drawn), "the images of both ranks"


def test_of_two_ranks_one_prints(two_rank_run):
    said, _ = two_rank_run
    for name in HEADER[1:6]:
        assert len(re.findall(rf"^{name} ", said, re.MULTILINE)) == 1, name
    assert "device     2 x cpu" in said
    lines = re.findall(r"training: (\d+) of 4 images", said)
    assert lines[0] == "2" and len(set(lines)) == len(lines)
    assert re.findall(r"validation at (\d+) images", said) == ["2", "4"]
    assert not [word for word in NOISE if word in said]
