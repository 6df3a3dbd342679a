"""What a training prints: a header, then a bar on a terminal or plain lines elsewhere, and nothing of its libraries."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from commands import train

from .conftest import arguments

ROOT = str(train.__file__).rsplit("/", 2)[0]
HEADER = ("data", "base", "prompts", "trains", "networks", "device", "run folder")
# Lightning's bar and counts, transformers' bar, Lightning's table and devices, a printed dict, any warning.
NOISE = ("Epoch", "it/s", "Loading weights", "FLOPs", "GPU available", "{'", "warn", "Seed set", "Restoring", "v_num")


def command(module, flags):
    return [sys.executable, "-m", module, *(f for f in flags if "enable_progress_bar" not in f)]


def redirected(words, folder):
    """What a command writes into a file."""
    log = folder / "log.txt"
    with log.open("w") as file:
        subprocess.run(
            words, stdout=file, stderr=subprocess.STDOUT, env=os.environ | {"PYTHONPATH": ROOT}, timeout=300, check=True
        )
    return log.read_text()


def on_a_terminal(words):
    """What a command writes to a terminal of 200 columns, and its exit code."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ["PYTHONPATH"] = ROOT
        os.execvp(words[0], words)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
    said = b""
    while True:
        try:
            part = os.read(terminal, 2**16)
        except OSError:  # Linux: the other end is closed
            break
        if not part:
            break
        said += part
    os.close(terminal)
    return said.decode(), os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def short_run(two_level_base, folder_of_two_domains, tmp_path_factory):
    """Log and folder of a run that `max_epochs` ends before the first validation is due."""
    folder = tmp_path_factory.mktemp("short")
    flags = arguments(two_level_base, folder_of_two_domains, folder / "run", "--trainer.max_epochs=1")
    return redirected(command("commands.train", flags), folder), folder / "run"


def test_a_redirected_run_has_its_header_once_and_plain_lines(short_run):
    said, run = short_run
    lines = said.splitlines()
    assert [line.split("  ")[0].removesuffix(f" {run}") for line in lines[:7]] == list(HEADER)
    assert lines[0].endswith("train 6 + 6, validate 4 + 4, test 5 + 5")
    assert all(len(re.findall(rf"^{name} ", said, re.MULTILINE)) == 1 for name in HEADER)
    assert "training random; metrics FID and KID random, structure random, LPIPS random" in lines[4]
    assert lines[5] == "device     1 x cpu, precision 32-true"
    assert re.fullmatch(r"training: 1 of 6 images, 17%, gan [\d.]+, cycle [\d.]+, .*disc [\d.]+", lines[7])
    assert "\r" not in said and not [word for word in NOISE if word in said]


def test_a_run_shorter_than_its_interval_validates_once_at_its_end(short_run):
    said, run = short_run
    assert re.findall(r"^validation at .*images: a2b FID \S+, KID \S+, structure \S+; b2a FID", said, re.MULTILINE)
    assert said.count("validation at") == said.count("validation at 6 images") == 1
    assert re.search(r"^trained on 6 images in [\d:]+", said, re.MULTILINE)
    assert sorted(p.name for p in (run / "checkpoints").iterdir()) == ["best-6.ckpt", "last.ckpt"]
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["progress"]["images_seen"] == 6
    assert last["callbacks"]["CollapseAlarm"]["below"], "the state is saved after the alarm counted"
    assert (run / "adapter" / "adapter.safetensors").is_file()
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    pictures = events.Images("val/pictures_a2b")
    assert [picture.step for picture in pictures] == [0, 6]
    before, after = (np.asarray(Image.open(io.BytesIO(picture.encoded_image_string))) for picture in pictures)
    assert before.shape == after.shape
    inputs, translations = slice(0, 34), slice(34, 68)
    assert (before[inputs] == after[inputs]).all() and before[inputs].max() > 200
    assert (before[translations] != after[translations]).any(), "six images change the translations"


def test_a_terminal_has_a_bar_of_images_and_a_resumed_one_starts_where_it_stopped(short_run):
    _, run = short_run
    words = command("commands.resume", [f"--run={run}", "--trainer.max_epochs=2", "--trainer.val_check_interval=8"])
    said, code = on_a_terminal(words)
    assert code == 0, said[-2000:]
    assert "resumed at 6 images" in said
    drawn = re.findall(r"\rtraining +(\d+)%\|.*?\| (\d+) of 12 images([^\r]*)", said)
    assert drawn[0][:2] == ("58", "7")
    assert all(7 <= int(images) <= 12 and int(images) * 100 // 12 - 1 <= int(share) for share, images, _ in drawn)
    assert any(" left, " in facts and "gan " in facts for *_, facts in drawn)
    assert "last validation a2b FID" in drawn[-1][2]
    assert re.search(r"\rvalidating +0%\| +\| 0 of 8 images", said)
    assert re.search(r"\rtesting +0%\| +\| 0 of 10 images", said)
    assert re.findall(r"validation at (\d+) images", said) == ["8", "12"]
    assert "trained on 6 images" in said
    assert not [word for word in NOISE if word in said]


def test_the_bar_can_be_silenced(two_level_base, folder_of_two_domains, tmp_path, capsys):
    run = tmp_path / "run"
    flags = arguments(two_level_base, folder_of_two_domains, run, "--model.init_args.max_images=1")
    assert train.main(flags) == 0
    said = capsys.readouterr().out
    assert f"run folder {run}" in said
    assert not [word for word in ("training:", "validating", "validation at", "testing", "trained on") if word in said]
