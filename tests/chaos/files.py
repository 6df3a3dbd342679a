"""Malformed adapters, checkpoints, released files, bases, archives and JSON; some would run code if they could."""

import io
import json
import os
import pickle
import random
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from .command_lines import ODD, change_leaf
from .harness import CANARY, Case
from .workshop import Workshop

MADE = tuple[str, str, list[str]]  # what was changed, command, arguments
SHELL = f"touch {CANARY}"


class Payload:
    """Runs a function when it is unpickled."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


def payloads() -> list[Payload]:
    """Objects that write the canary when they are unpickled."""
    write = f"open({CANARY!r}, 'w').close()"
    return [
        *(Payload(os.system, SHELL), Payload(subprocess.Popen, ["touch", CANARY]), Payload(exec, write)),
        *(Payload(eval, write), Payload(open, CANARY, "w"), Payload(torch.save, {}, CANARY)),
        *(Payload(os.mkdir, CANARY), Payload(shutil.copy, "/etc/hostname", CANARY)),
    ]


def cases(workshop: Workshop, folder: Path, count: int, seed: int) -> Iterator[tuple[Case, Path]]:
    """Seeded cases: each is one malformed file, given to a command that reads it.

    Args:
        workshop: whose sound files are changed.
        folder: where each case gets a folder of its own.
        count: of cases.
        seed: of all of them.
    """
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        here = folder / f"{number:04d}"
        here.mkdir(parents=True)
        make = KINDS[number % len(KINDS)]
        name, command, words = make(workshop, here, draw)
        yield Case(f"{make.__name__.strip('_')}: {name}", command, words), here


def _reader(workshop: Workshop, path: Path, draw: random.Random) -> tuple[str, list[str]]:
    """A command that reads an adapter, a checkpoint or a released file."""
    image = next((workshop.data / "test_A").iterdir())
    base = draw.choice([[], [f"--base={workshop.base}"]])
    return draw.choice([
        ("translate", [f"--ckpt={path}", f"--in={image}", "--out=out.png", "--prompt=fog", "--device=cpu", *base]),
        ("export", [f"--ckpt={path}", "--format=diffusers", "--out=exported", *base]),
        ("evaluate", [f"--ckpt={path}", "--exp=clear2foggy", f"--data={workshop.data}", "--out=scores", *base]),
        ("train", [*workshop.train("run"), f"--init={path}"]),
    ])  # fmt: skip


def _card(workshop: Workshop, here: Path, draw: random.Random) -> MADE:
    adapter = here / "adapter"
    shutil.copytree(workshop.run / "adapter", adapter)
    file = adapter / "adapter.json"
    content = json.loads(file.read_text())
    if draw.random() < 0.75:
        name, content = change_leaf(content, draw, VALUES)
        file.write_text(json.dumps(content))
    else:
        name, text = draw.choice(TEXTS)
        file.write_bytes(text(file.read_bytes()))
    return name, *_reader(workshop, adapter, draw)


VALUES: list[Any] = [
    *(*ODD, 10**9, 10**6, -(10**9), 1e300, 2**63, "os.system", "../../x", "a\nb", ["a2b"] * 100_000, {"a2b": None}),
    *([10**9], {"x": [[[]]]}, "networks.ResnetGenerator", ["to_q"] * 1000, "someone/model", "x" * 10**6),
]
TEXTS: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("deep lists", lambda text: b"[" * 100_000 + b"]" * 100_000),
    ("deep mappings", lambda text: b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    ("a long number", lambda text: b'{"format": ' + b"9" * 100_000 + b"}"),
    ("cut off", lambda text: text[: len(text) // 2]),
    ("empty", lambda text: b""),
    ("no UTF-8", lambda text: b"\xff\xfe" + text),
    ("a list", lambda text: b"[1, 2]"),
    ("a key twice", lambda text: b'{"format": 2,' + text[1:]),
    ("NaN", lambda text: text.replace(b": 1", b": NaN", 1)),
    ("50 MB of blanks", lambda text: b" " * 50_000_000 + text),
]


def _weights(workshop: Workshop, here: Path, draw: random.Random) -> MADE:
    adapter = here / "adapter"
    shutil.copytree(workshop.run / "adapter", adapter)
    file = adapter / draw.choice([*["adapter.safetensors"] * 3, "prompts.safetensors"])
    raw, tensors = file.read_bytes(), load_file(file)
    key = draw.choice(sorted(tensors))
    way = draw.choice([*BYTES, "tensor", "tensor", "tensor"])
    if way == "tensor":
        way, value = draw.choice(TENSORS)
        changed = value(tensors[key])
        if changed is None:
            del tensors[key]
        else:
            tensors[key] = changed
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    else:
        file.write_bytes(_bytes(raw, way, draw))
    return f"{file.name}, {key}: {way}", *_reader(workshop, adapter, draw)


TENSORS: list[tuple[str, Callable[[torch.Tensor], torch.Tensor | None]]] = [
    ("integers", lambda t: t.to(torch.int64)),
    ("booleans", lambda t: t > 0),
    ("NaN", lambda t: torch.full_like(t, float("nan"))),
    ("infinite", lambda t: torch.full_like(t, float("inf"))),
    ("half precision", lambda t: t.half()),
    ("double precision", lambda t: t.double()),
    ("another shape", lambda t: torch.zeros(3, 5)),
    ("flat", lambda t: t.flatten()),
    ("empty", lambda t: torch.zeros(0)),
    ("missing", lambda t: None),
]
BYTES = ("cut off", "flipped", "empty", "a long header", "a header of other bytes", "bytes behind", "a pickle")


def _bytes(raw: bytes, way: str, draw: random.Random) -> bytes:
    if way == "cut off":
        return raw[: draw.randrange(len(raw))]
    if way == "flipped":
        changed = bytearray(raw)
        for _ in range(8):
            changed[draw.randrange(min(len(raw), 4000))] = draw.randrange(256)
        return bytes(changed)
    if way == "a long header":
        return struct.pack("<Q", draw.choice([2**63, 2**40, len(raw)])) + raw[8:]
    if way == "a header of other bytes":
        return raw[:8] + draw.randbytes(200) + raw[208:]
    return {"empty": b"", "bytes behind": raw + b"\0" * 1000, "a pickle": pickle.dumps(draw.choice(payloads()))}[way]


def _checkpoint(workshop: Workshop, here: Path, draw: random.Random) -> MADE:
    run = workshop.copy_run(here)
    file = run / "checkpoints" / "last.ckpt"
    content = torch.load(file, weights_only=True)
    way = draw.choice(["entry", "entry", "entry", "code", "bytes", "bomb"])
    if way == "entry":
        path = [draw.choice([*content, "adapter", "progress", "rng"])]
        section: Any = content
        while isinstance(section.get(path[-1]), dict) and section[path[-1]] and draw.random() < 0.7:
            section = section[path[-1]]
            path.append(draw.choice([*section]))
        value = draw.choice([*VALUES, torch.zeros(2), "gone", "gone", "gone"])
        section[path[-1]] = value
        if isinstance(value, str) and value == "gone":
            del section[path[-1]]
        way = f"{'.'.join(map(str, path))} = {str(value)[:40]!r}"
        torch.save(content, file)
    elif way == "code":
        content[draw.choice(["rng", "adapter", "x", "state_dict"])] = draw.choice(payloads())
        legacy = draw.random() < 0.3
        torch.save(content, file, _use_new_zipfile_serialization=not legacy)
        way = f"code{', legacy format' if legacy else ''}"
    elif way == "bytes":
        way = draw.choice(BYTES)
        file.write_bytes(_bytes(file.read_bytes(), way, draw))
    else:
        way = _bomb(file, draw)
    resume = "resume", [f"--run={run}", "--model.init_args.max_images=8"]
    return way, *draw.choice([resume, _reader(workshop, file, draw)])


def _bomb(file: Path, draw: random.Random) -> str:
    """The checkpoint with a member that expands to a gigabyte, or twice with one name."""
    with zipfile.ZipFile(file) as old:
        members = [(info.filename, old.read(info)) for info in old.infolist()]
    way = draw.choice(["a member of a gigabyte", "a member twice"])
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
        for name, body in members:
            if name.endswith("/data/0") and way == "a member of a gigabyte":
                with new.open(name, "w") as member:
                    for _ in range(1024):
                        member.write(bytes(2**20))
                continue
            new.writestr(name, body)
            if name.endswith("data.pkl") and way == "a member twice":
                new.writestr(name, pickle.dumps(draw.choice(payloads())))
    return way


def _released(workshop: Workshop, here: Path, draw: random.Random) -> MADE:
    file = here / "released.pkl"
    names = ("rank_unet", "rank_vae", "vae_lora_target_modules", "unet_lora_target_modules", "sd_encoder", "sd_decoder")
    content: Any = {name: draw.choice(VALUES[:20]) for name in draw.sample(names, draw.randrange(1, 7))}
    way = draw.choice(["entries", "code", "code", "a plain pickle", "a list", "a tensor", "a deep list"])
    if way == "code":
        content["x"] = draw.choice(payloads())
    if way == "a list":
        content = [1, 2]
    if way == "a tensor":
        content = torch.zeros(2)
    if way == "a deep list":
        content = []
        for _ in range(100):
            content = [content]
    if way == "a plain pickle":
        file.write_bytes(pickle.dumps(draw.choice(payloads()), protocol=draw.choice([0, 2, 4])))
    else:
        torch.save(content, file)
    command, words = _reader(workshop, file, draw)
    return (
        way,
        command,
        words if any(word.startswith("--base") for word in words) else [*words, f"--base={workshop.base}"],
    )


def _base(workshop: Workshop, here: Path, draw: random.Random) -> MADE:
    base = here / "base"
    shutil.copytree(workshop.base, base)
    files = sorted(path for path in base.rglob("*") if path.is_file())
    file = draw.choice(files)
    name = str(file.relative_to(base))
    if file.suffix == ".json" and draw.random() < 0.7:
        content = json.loads(file.read_text())
        how = "a list"
        if isinstance(content, dict) and content:
            how, content = change_leaf(content, draw, VALUES)
        file.write_text(json.dumps(content))
    elif file.suffix == ".json":
        how, text = draw.choice(TEXTS)
        file.write_bytes(text(file.read_bytes()))
    else:
        how = draw.choice([*BYTES, "a pickle", "gone"])
        raw = file.read_bytes()
        file.unlink()
        if how == "a pickle":
            torch.save({"x": draw.choice(payloads())}, file.with_name("diffusion_pytorch_model.bin"))
            torch.save({"x": draw.choice(payloads())}, file.with_name("pytorch_model.bin"))
        elif how != "gone":
            file.write_bytes(_bytes(raw, how, draw))
    image = next((workshop.data / "test_A").iterdir())
    ckpt = workshop.run / "adapter"
    words = [f"--ckpt={ckpt}", f"--in={image}", "--out=out.png", "--prompt=fog", "--device=cpu", f"--base={base}"]
    train = [word for word in workshop.train("run") if not word.startswith("--base")]
    return f"{name}: {how}", *draw.choice([("translate", words), ("train", [*train, f"--base={base}"])])


def _archive(workshop: Workshop, here: Path, draw: random.Random) -> MADE:
    kind = draw.choice(["zip", "tar", "tar.gz"])
    file = here / f"x.{kind}"
    image = next((workshop.data / "test_A").iterdir()).read_bytes()
    names = [f"horse2zebra/{split}{letter}/{k}.png" for split in ("train", "test") for letter in "AB" for k in range(2)]
    way = draw.choice(["outside", "absolute", "twice", "bomb", "link", "device", "cut off", "many", "a file as folder"])
    entries: list[tuple[str, bytes]] = [(name, image) for name in names]
    if way == "outside":
        entries.append((draw.choice([f"../{CANARY}", f"horse2zebra/trainA/../../../../{CANARY}/trainA/x.png"]), image))
    elif way == "absolute":
        entries.append((f"{here.absolute()}/{CANARY}/trainA/x.png", image))
    elif way == "twice":
        entries.append((names[0], image[::-1]))
    elif way == "bomb":
        entries.append(("horse2zebra/trainA/bomb.png", bytes(2**29)))
    elif way == "many":
        entries += [(f"horse2zebra/trainA/{k}.png", b"") for k in range(20_000)]
    elif way == "a file as folder":
        entries.append((f"{names[0]}/trainA/x.png", image))
    if kind == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as new:
            for name, body in entries:
                new.writestr(name, body)
            if way in ("link", "device"):
                info = zipfile.ZipInfo("horse2zebra/trainA/link.png")
                info.external_attr = (0o120777 if way == "link" else 0o020666) << 16
                new.writestr(info, "/etc/passwd")
    else:
        with tarfile.open(file, "w:gz" if kind == "tar.gz" else "w") as new:
            for name, body in entries:
                info = tarfile.TarInfo(name)
                info.size = len(body)
                new.addfile(info, io.BytesIO(body))
            if way in ("link", "device"):
                info = tarfile.TarInfo("horse2zebra/trainA/link.png")
                info.type = draw.choice([tarfile.SYMTYPE, tarfile.LNKTYPE]) if way == "link" else tarfile.CHRTYPE
                info.linkname = "/etc/passwd"
                new.addfile(info)
    if way == "cut off":
        file.write_bytes(file.read_bytes()[: draw.randrange(file.stat().st_size)])
    return f"{kind}, {way}", "data", ["--name=horse2zebra", f"--archive={file}", "--out=data/inner"]


def _scores(workshop: Workshop, here: Path, draw: random.Random) -> MADE:
    file = here / "metrics.json"
    content = json.loads((workshop.run / "metrics.json").read_text())
    if draw.random() < 0.7:
        how, content = change_leaf(content, draw, VALUES)
        file.write_text(json.dumps(content))
    else:
        how, text = draw.choice(TEXTS)
        file.write_bytes(text((workshop.run / "metrics.json").read_bytes()))
    return how, "compare", [str(workshop.run), str(file)]


KINDS = (_card, _weights, _checkpoint, _released, _card, _base, _checkpoint, _archive, _weights, _scores)
