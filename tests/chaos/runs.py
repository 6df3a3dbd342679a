"""An uninterrupted training, and what must hold of a run folder that something interrupted."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from networks.checkpoints.adapter import read_adapter, read_checkpoint

from .harness import Case, Outcome, Warm, faults
from .workshop import IMAGES, Workshop

STATE = ("state_dict", "optimizer_states", "progress", "rng", "gradients")


@dataclass(frozen=True)
class Reference:
    """An uninterrupted training.

    Attributes:
        run: its folder.
        more: arguments that it has beside those of `Workshop.train`.
        adapters: trained tensors of the generator by images seen, after every batch; empty where they are not known.
        seconds: that it took.
        start_s: seconds that Python takes longer where it is started anew.
        changes: of the run folder's files that `listing` sees while it trains.
    """

    run: Path
    more: tuple[str, ...]
    adapters: dict[int, dict[str, Tensor]]
    seconds: float
    start_s: float
    changes: int


def reference(warm: Warm, workshop: Workshop, folder: Path, *more: str) -> Reference:
    """Train as the interrupted runs do, once with a validation after every batch; ranks need Python started anew."""
    every = workshop.train(folder / "every", IMAGES, *EVERY, *more)
    first = warm.run(Case("every batch", "train", every, fresh=True, limit_s=300), folder)
    assert first.code == 0, first.err
    adapters = {}
    for path in (folder / "every" / "checkpoints").glob("best-*.ckpt"):
        content = read_checkpoint(path)
        adapters[content["progress"]["images_seen"]] = {
            name.removeprefix("generator."): value
            for name, value in content["state_dict"].items()
            if name.startswith("generator.")
        }
    assert max(adapters) == IMAGES
    words = workshop.train(folder / "whole", IMAGES, *more)
    running = warm.start(Case("uninterrupted", "train", words, fresh=bool(more), limit_s=300), folder)
    seen, count = listing(folder / "whole"), 0
    while running.is_alive():
        now = listing(folder / "whole")
        count, seen = count + (now != seen), now
    last = running.finish()
    assert last.code == 0, last.err
    return Reference(folder / "whole", more, adapters, last.seconds, max(0, first.seconds - last.seconds), count)


EVERY = ("--trainer.val_check_interval=1", "--trainer.callbacks.init_args.save_top_k=-1")


def listing(run: Path) -> list[tuple[str, int, int]]:
    """Names, inodes and sizes of the files of a run folder that are replaced while it trains."""
    found = []
    for folder in (run / "checkpoints", run / "adapter"):
        try:
            found += [(path.name, (stat := path.stat()).st_ino, stat.st_size) for path in folder.iterdir()]
        except OSError:  # not there yet, or replaced between the two calls
            continue
    return sorted(found)


def whole(run: Path, known: Reference) -> list[str]:
    """Faults of the files of a run folder: each is whole or missing, card and weights are of one state."""
    found = []
    for path in (run / "checkpoints").glob("*.ckpt"):
        try:
            read_checkpoint(path)
        except (ValueError, OSError) as error:
            found.append(f"{path.name}: {error}")
    if all((run / "adapter" / name).is_file() for name in ("adapter.json", "adapter.safetensors")):
        try:
            adapter = read_adapter(run)
            images = adapter.card.run.images_seen
            if known.adapters and difference(known.adapters.get(images or 0), dict(adapter.tensors)):
                found.append(f"the card says {images} images, the weights are of another state")
        except (ValueError, OSError) as error:
            found.append(f"adapter: {error}")
    for path in run.rglob("*"):
        if path.name.endswith(".part") or not path.is_file():
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".yaml":
                assert isinstance(yaml.safe_load(path.read_text()), dict), "empty"
            elif path.suffix == ".png":
                Image.open(path).load()
        except (ValueError, OSError, SyntaxError, AssertionError, yaml.YAMLError) as error:
            found.append(f"{path.name}: {error}")
    return found


def resumed(warm: Warm, run: Path, known: Reference, folder: Path, fresh: bool = False) -> tuple[list[str], Outcome]:
    """Resume an interrupted run: kinds of fault, and what the command did.

    It must end in the bits of the uninterrupted training, from its checkpoint or, where it has none yet, from the
    start. A training that was interrupted before it wrote its configuration is no run: the command must say so.
    """
    there = (run / "config.yaml").is_file()
    case = Case("resume", "resume", [f"--run={run}"], must_fail=not there, limit_s=120, fresh=fresh)
    outcome = warm.run(case, folder)
    found = faults(case, outcome, folder, allowed=(0,) if there else (2,))
    if there and not found:
        lost = [name for name, here in _bits(run).items() if difference(_bits(known.run)[name], here)]
        if lost or whole(run, known):
            found.append("bits lost")
            outcome.err += f"\ndifferent from the uninterrupted run: {lost} {whole(run, known)}"
        if parts := [path.name for path in run.rglob("*.part")]:
            found.append("files left")
            outcome.err += f"\nunfinished files are left: {parts}"
    return found, outcome


def _bits(run: Path) -> dict[str, Any]:
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    metrics = json.loads((run / "metrics.json").read_text())
    best = metrics.get("best", {})
    return {
        **{name: last[name] for name in STATE},
        "adapter.safetensors": load_file(run / "adapter" / "adapter.safetensors"),
        "metrics.json": [metrics["a2b"], metrics["b2a"], metrics["images_seen"], best.get("a2b"), best.get("b2a")],
        "the choice of the best": [
            best.get("checkpoint"),
            sorted(p.name for p in (run / "checkpoints").glob("*.ckpt")),
        ],
    }


def difference(a: Any, b: Any, path: str = "") -> str:
    """Where two nested states differ by a bit; empty where they do not."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return "" if a.dtype == b.dtype and torch.equal(a, b) else path or "/"
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            return f"{path} keys {sorted(map(str, a.keys() ^ b.keys()))}"
        return next(filter(None, (difference(a[key], b[key], f"{path}/{key}") for key in a)), "")
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        if len(a) != len(b):
            return f"{path} length"
        return next(
            filter(None, (difference(x, y, f"{path}/{k}") for k, (x, y) in enumerate(zip(a, b, strict=True)))), ""
        )
    return "" if a == b else path or "/"
