"""Malformed adapters, checkpoints, bases and archives, each a seeded change of a good one, for tests that read them."""

import collections
import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

LARGE = 50_000_000  # bytes that a small file expands to

# What may stand in the place of any value of a card or a config.
VALUES = (None, True, -1, 0, 10**9, 10**400, 1e308, float("nan"), "", "x" * 100_000, "a\nb", [], [[1]], {}, {"a": [{}]})
TEXTS = {
    "deep": b"[" * 200_000,
    "deep_object": b'{"format": 1, "x": ' + b"[" * 900 + b"]" * 900 + b"}",
    "list": b"[1]",
    "null": b"null",
    "empty": b"",
    "cut": b'{"format": 1, "se',
    "no_text": b"\xff\xfe\x00{",
    "large": b'{"format": 1, "x": "' + b"x" * (2 << 20) + b'"}',
    "long_number": b'{"format": ' + b"1" * 10_000 + b"}",
}


class Runs:
    """A pickled call of a function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def changed(content, rng):
    """A copy of a JSON object with one value, at any depth, removed, renamed or replaced."""
    copy = json.loads(json.dumps(content))
    places = [(copy, key) for key in copy]
    for value in copy.values():
        places += [(value, key) for key in value] if isinstance(value, dict) else []
    holder, key = places[rng.integers(len(places))]
    kind = rng.integers(len(VALUES) + 2)
    if kind < len(VALUES):
        holder[key] = VALUES[kind]
    else:
        value = holder.pop(key)
        if kind > len(VALUES):
            holder[f"{key}\n"] = value
    return copy


def adapters(good: Path, folder: Path, count: int, seed: int):
    """Adapter folders: cards and weights that are damaged, of another kind or too large to be meant; name and path."""
    rng = np.random.default_rng(seed)
    card, tensors = json.loads((good / "adapter.json").read_text()), load_file(good / "adapter.safetensors")
    first = next(iter(tensors))
    cards = {f"card_{name}": text for name, text in TEXTS.items()}
    cards |= {f"card_{k}": json.dumps(changed(card, rng)).encode() for k in range(count)}
    weights = {
        "integers": {k: t.to(torch.int64) for k, t in tensors.items()},
        "booleans": tensors | {first: tensors[first].bool()},
        "eight_bits": tensors | {first: tensors[first].to(torch.float8_e4m3fn)},
        "nan": tensors | {first: tensors[first] * float("nan")},
        "infinite": tensors | {first: torch.full_like(tensors[first], float("inf"))},
        "missing": {k: t for k, t in tensors.items() if k != first},
        "unknown": tensors | {"a\nb" * 1000: torch.zeros(1)},
        "shape": tensors | {first: tensors[first][None].clone()},
        "none": {},
    }
    for name, text in cards.items():
        path = _copy(good, folder / name)
        (path / "adapter.json").write_bytes(text)
        yield name, path
    for name, content in weights.items():
        path = _copy(good, folder / f"weights_{name}")
        save_file(content, path / "adapter.safetensors")
        yield f"weights_{name}", path
    whole = (good / "adapter.safetensors").read_bytes()
    for k in range(count):
        path = _copy(good, folder / f"bytes_{k}")
        (path / "adapter.safetensors").write_bytes(_damaged(whole, rng))
        yield f"bytes_{k}", path


def checkpoints(good: Path, folder: Path, count: int, seed: int):
    """Files of torch.save: other contents, calls, compressed or double members, tensors of more bytes than the file."""
    rng = np.random.default_rng(seed)
    content = torch.load(good, weights_only=True)
    state = content["state_dict"]
    first = next(iter(state))
    folder.mkdir(parents=True, exist_ok=True)
    marker = str(folder / "it_ran")
    nested: list = []
    for _ in range(120):
        nested = [nested]
    contents = {
        "list": [1],
        "no_state": {"adapter": content["adapter"]},
        "state_none": content | {"state_dict": None},
        "state_numbers": content | {"state_dict": {1: torch.zeros(1)}},
        "state_texts": content | {"state_dict": {first: "x"}},
        "card_list": content | {"adapter": [1]},
        "card_tensor": content | {"adapter": torch.zeros(3)},
        "card_set": content | {"adapter": content["adapter"] | {"prompts": {1, 2}}},
        "card_nested": content | {"adapter": content["adapter"] | {"x": nested}},
        "card_keys": content | {"adapter": {1: 2, None: 3}},
        "integers": content | {"state_dict": {k: t.long() for k, t in state.items()}},
        "complex": content | {"state_dict": state | {first: state[first].to(torch.complex64)}},
        "nan": content | {"state_dict": state | {first: state[first] * float("nan")}},
        "sparse": content | {"state_dict": state | {first: state[first].to_sparse()}},
        "repeated": content | {"state_dict": state | {first: torch.zeros(1).expand(LARGE, 100)}},
        "aliased": content | {"state_dict": dict.fromkeys(map(str, range(5000)), torch.zeros(10_000).half())},
        "bytearray": content | {"x": Runs(bytearray, LARGE)},
        "tensor": content | {"x": Runs(torch.Tensor, LARGE, 100)},
        "quantized": content | {"x": torch.quantize_per_tensor(torch.zeros(3), 1.0, 0, torch.qint8)},
        "runs": content | {"x": Runs(os.mkdir, marker)},
        "runs_in_card": content | {"adapter": Runs(os.system, f"mkdir {marker}")},
        "counter": collections.Counter("ab"),
    }
    for name, value in contents.items():
        path = folder / f"{name}.ckpt"
        torch.save(value, path)
        yield name, path
    torch.save(content | {"x": torch.zeros(LARGE // 4)}, plain := folder / "plain.tmp")
    with zipfile.ZipFile(plain) as read, zipfile.ZipFile(folder / "deflated.ckpt", "w", zipfile.ZIP_DEFLATED) as write:
        for member in read.infolist():
            write.writestr(member.filename, read.read(member))
    plain.unlink()
    yield "deflated", folder / "deflated.ckpt"
    shutil.copy(good, folder / "double.ckpt")
    with zipfile.ZipFile(folder / "double.ckpt", "a") as write:
        member = write.infolist()[0]
        write.writestr(member.filename, write.read(member))
    yield "double", folder / "double.ckpt"
    whole = good.read_bytes()
    for k in range(count):
        (folder / f"bytes_{k}.ckpt").write_bytes(_damaged(whole, rng))
        yield f"bytes_{k}", folder / f"bytes_{k}.ckpt"


def bases(good: Path, folder: Path, count: int, seed: int):
    """Base folders: configs of other types and sizes, and weights that are missing, pickled or no floats."""
    rng = np.random.default_rng(seed)
    configs = ["unet/config.json", "vae/config.json", "text_encoder/config.json"]
    configs += ["scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"]
    sizes = {
        configs[0]: {"block_out_channels": [65536, 65536], "layers_per_block": 20_000, "cross_attention_dim": 10**9},
        configs[1]: {"block_out_channels": [65536, 65536], "layers_per_block": 20_000, "latent_channels": 10**9},
        configs[2]: {"hidden_size": 10**6, "num_hidden_layers": 20_000, "vocab_size": 10**9},
        configs[3]: {"num_train_timesteps": 10**10, "beta_start": float("nan")},
        configs[4]: {"model_max_length": 10**8},
    }
    for file in configs:
        content = json.loads((good / file).read_text())
        texts = [(key, content | {key: value}) for key, value in sizes[file].items()]
        texts += [(f"changed_{k}", changed(content, rng)) for k in range(count)]
        for name, value in texts:
            path = _copy(good, folder / f"{file.replace('/', '_')}_{name}")
            (path / file).write_text(json.dumps(value))
            yield path.name, path
        for name in ("deep", "list", "empty"):
            path = _copy(good, folder / f"{file.replace('/', '_')}_{name}")
            (path / file).write_bytes(TEXTS[name])
            yield path.name, path
    for file in ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model"):
        tensors = load_file(good / f"{file}.safetensors")
        first = next(iter(tensors))
        contents = {
            "missing": {k: t for k, t in tensors.items() if k != first},
            "none": {},
            "integers": {k: t.long() for k, t in tensors.items()},
            "nan": tensors | {first: tensors[first] * float("nan")},
            "shape": tensors | {first: tensors[first][None].clone()},
        }
        for name, value in contents.items():
            path = _copy(good, folder / f"{file.replace('/', '_')}_{name}")
            save_file(value, path / f"{file}.safetensors")
            yield path.name, path
        path = _copy(good, folder / f"{file.replace('/', '_')}_pickle")
        (path / f"{file}.safetensors").unlink()
        pickled = path / (f"{file}.bin" if "diffusion" in file else "text_encoder/pytorch_model.bin")
        torch.save(tensors, pickled)
        yield path.name, path


def archives(good: Path, folder: Path, count: int, seed: int):
    """Archives that unpack to far more than their size, hold a path twice, lead out of the folder, or are damaged."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    inside = "horse2zebra/trainA/{}.jpg"

    def zipped(name, *members, **options):
        with zipfile.ZipFile(folder / name, "w", **options) as file:
            for member, content in members:
                file.writestr(member, content)
        return name, folder / name

    def tarred(name, *members):
        with tarfile.open(folder / name, "w:gz") as file:
            for member, content, kind in members:
                info = tarfile.TarInfo(member)
                info.size, info.type = len(content), kind
                file.addfile(info, io.BytesIO(content))
        return name, folder / name

    zeros = bytes(2 * LARGE)
    yield zipped("bomb.zip", (inside.format(1), zeros), compression=zipfile.ZIP_DEFLATED)
    yield tarred("bomb.tgz", (inside.format(1), zeros, tarfile.REGTYPE))
    yield tarred("unwanted.tgz", ("readme", zeros, tarfile.REGTYPE), (inside.format(1), b"x", tarfile.REGTYPE))
    yield tarred("long_name.tgz", (inside.format(1), zeros, tarfile.GNUTYPE_LONGNAME))
    yield tarred("second_header.tgz", ("a", b"x", tarfile.REGTYPE), ("b", zeros, tarfile.XHDTYPE))
    yield tarred("twice.tgz", *[(inside.format(1), bytes([k]), tarfile.REGTYPE) for k in range(2)])
    yield tarred("twice_by_prefix.tgz", *[(p + inside.format(1), b"x", tarfile.REGTYPE) for p in ("", "./")])
    yield zipped("twice.zip", (inside.format(1), b"a"), ("deep/" + inside.format(1), b"b"))
    yield zipped("out.zip", ("../" + inside.format(1), b"a"))
    yield zipped("absolute.zip", ("/" + inside.format(1), b"a"))
    yield tarred("link.tgz", (inside.format(1), b"", tarfile.SYMTYPE))
    yield tarred("device.tgz", (inside.format(1), b"", tarfile.CHRTYPE))
    whole = good.read_bytes()
    for k in range(count):
        (folder / f"bytes_{k}{good.suffix}").write_bytes(_damaged(whole, rng))
        yield f"bytes_{k}", folder / f"bytes_{k}{good.suffix}"


def _copy(good: Path, path: Path) -> Path:
    shutil.copytree(good, path)
    return path


def _damaged(whole: bytes, rng) -> bytes:
    """Bytes cut off, overwritten or inserted, most often near the start, where headers are."""
    content = bytearray(whole)
    at = int(len(content) * rng.random() ** 4)
    kind = rng.integers(3)
    if kind == 0:
        del content[at:]
    elif kind == 1:
        content[at : at + 8] = rng.bytes(8)
    else:
        content[at:at] = rng.bytes(int(rng.integers(1, 64)))
    return bytes(content)
