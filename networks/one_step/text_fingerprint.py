"""The fingerprint of a base's text encoders, from their files alone."""

import json
from contextlib import suppress
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open

from networks.one_step.bases import Base
from storage import digest, read_json, shortened

FLOATS = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def text_fingerprint(base: Base) -> str | None:
    """Short hash that tells text encoders apart, from their files alone; None where they are not on this machine.

    Twelve hex digits over names, shapes and 16 values of every tensor, rounded to fp16 so that both variants agree; at
    random weights over the configs.  The values are neighbours: a page of the file is read per tensor, no network is
    built, and nothing is downloaded.

    Raises:
        ValueError: a file is damaged.
    """
    pieces: list[bytes] = []
    for _, part, _ in base.conditions.parts:
        folder = _folder(base, part)
        files = [folder / "config.json"] if base.random_init else _weight_files(folder)
        if not files or not all(path.is_file() for path in files):
            return None
        try:
            pieces += [path.read_bytes() for path in files] if base.random_init else _samples(files)
        except (SafetensorError, OSError) as error:
            raise ValueError(f"Base {base.name!r}: cannot read its {part}: {shortened(str(error))}.") from error
    return digest([str(base.random_init).encode(), *pieces], digits=12)


def _samples(files: list[Path]) -> list[bytes]:
    """Name, shape and some values of each tensor of some files, in the order of names; integers are left out."""
    samples = {}
    for path in files:
        # Checks the header only: its tensors are mapped, where each value brings megabytes along.
        with safe_open(path, "numpy"):
            pass
        with path.open("rb", buffering=0) as file:
            length = int.from_bytes(file.read(8), "little")
            for name, entry in json.loads(file.read(length)).items():
                if name == "__metadata__" or entry["dtype"] not in FLOATS:
                    continue
                dtype, (begin, end) = FLOATS[entry["dtype"]], entry["data_offsets"]
                count = (end - begin) // dtype.itemsize
                file.seek(8 + length + begin + count // 2 * dtype.itemsize)
                values = file.read(min(16, count - count // 2) * dtype.itemsize)
                half = torch.frombuffer(bytearray(values), dtype=dtype).half() if values else torch.empty(0)
                samples[name] = f"{name}{tuple(entry['shape'])}".encode() + half.numpy().tobytes()
    return [samples[name] for name in sorted(samples)]


def _weight_files(folder: Path) -> list[Path]:
    """The safetensors files that transformers would read, full precision before fp16; some may be missing."""
    for variant in ("", ".fp16"):
        if (whole := folder / f"model{variant}.safetensors").is_file():
            return [whole]
        index = folder / f"model.safetensors.index{variant}.json"
        if index.is_file() and isinstance(shards := read_json(index).get("weight_map"), dict):
            return sorted({folder / Path(str(name)).name for name in shards.values()})
    return []


def _folder(base: Base, part: str) -> Path:
    """Where a part of a base is, or would be: in its folder, or in the cache of the hub."""
    if not Path(base.source).is_dir():
        with suppress(ValueError):  # no hub id
            cached = try_to_load_from_cache(base.source, f"{part}/config.json", revision=base.revision)
            if isinstance(cached, str):
                return Path(cached).parent
    return Path(base.source, part)
