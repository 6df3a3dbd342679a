"""Files of ``torch.save``, read at bounded memory and without running anything that they hold."""

import pickletools
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from storage import shortened

# What torch.save writes for plain tensors.  The list of `torch.load` is longer: `bytearray` or a sparse tensor of it
# allocates as much as a few bytes of the file ask for.
ACCEPTED = {
    *(
        "collections OrderedDict",
        "collections Counter",
        "builtins set",
        "__builtin__ set",
        "_codecs encode",
        "torch Size",
    ),
    *("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter"),
}
OBJECT_BYTES = 8 << 20  # of the pickle without its tensors; a checkpoint's has less than one MiB
EXPANSION = 4  # tensors may share memory, as both halves of a released VAE do, so they add up to more than the file


def read_pickle(path: Path) -> Any:  # noqa: ANN401  # callers check what they got
    """Read a file of ``torch.save`` that holds tensors, numbers, strings, lists and dicts; nothing in it is run.

    Raises:
        ValueError: it holds anything else, unpacks to more than its size, or is damaged.
    """
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore", UserWarning)  # about the pickle's protocol
            is_zip = file.read(4) == b"PK\x03\x04"
            file.seek(0)
            if is_zip:
                _check_zip(file)
            else:
                _check_legacy(file)
            file.seek(0)
            content = torch.load(file, map_location="cpu", weights_only=True)
        _check_tensors(content, path.stat().st_size)
    except OSError:
        raise
    except Exception as error:  # torch raises many kinds here; all mean that the file cannot be trusted or read
        reason = str(error) if isinstance(error, RefusedError) else "it is damaged, or no file of torch.save"
        raise ValueError(
            f"{path} was not read: {reason}. Of a pickle only tensors, numbers, strings, lists and dicts are accepted."
        ) from error
    return content


class RefusedError(ValueError):
    """A file that torch could read but that would run code or take more memory than its size."""


def tensors_in(content: object) -> Iterator[tuple[str, Tensor]]:
    """Tensors of nested dicts, lists and tuples with the path of each, e.g. ``state_dict/generator.unet.conv_in.bias``.

    A container that the content names several times is walked once.
    """
    stack, seen = [("", content)], set()
    while stack:
        name, value = stack.pop()
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            stack.extend((f"{name}/{str(key)[:200]}" if name else str(key)[:200], inner) for key, inner in pairs)


def _check_zip(file: IO[bytes]) -> None:
    """Refuse members that are compressed or overlap: torch.save stores them as they are, so they sum up to the file."""
    size = file.seek(0, 2)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > size:
            raise RefusedError(f"its {size:,} bytes unpack to {sum(m.file_size for m in members):,}")
        if len({m.filename for m in members}) < len(members):
            raise RefusedError("two of its members have one name")
        pickles = [m for m in members if m.filename.endswith("data.pkl")]
        for member in pickles:
            if member.file_size > OBJECT_BYTES:
                raise RefusedError(f"its list of tensors has {member.file_size:,} bytes, more than {OBJECT_BYTES:,}")
            with archive.open(member) as pickled:
                _check_calls(pickled)


def _check_legacy(file: IO[bytes]) -> None:
    """The format before torch 1.6: four pickles, then a pickled list of names and the tensors' bytes."""
    for _ in range(5):
        _check_calls(file)


def _check_calls(file: IO[bytes]) -> None:
    """Refuse a pickle that names a function or class other than those of plain tensors."""
    for operation, argument, _ in pickletools.genops(file):
        if operation.name == "STACK_GLOBAL":
            raise RefusedError("it would run a function whose name it puts together")
        if operation.name in ("GLOBAL", "INST") and argument not in ACCEPTED:
            module, _, name = str(argument).partition(" ")
            # torch.FloatStorage, torch.float32
            if module == "torch" and (name.endswith("Storage") or isinstance(getattr(torch, name, None), torch.dtype)):
                continue
            raise RefusedError(f"it would run {shortened(f'{module}.{name}')}")


def _check_tensors(content: object, size: int) -> None:
    """Refuse views that repeat a few bytes of the file until they fill the memory."""
    total = sum(tensor.numel() * tensor.element_size() for _, tensor in tensors_in(content))
    if total > EXPANSION * size:
        raise RefusedError(f"its tensors unpack to {total:,} bytes from {size:,}")
