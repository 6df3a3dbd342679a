"""Embeddings of trained prompts on disk: ``prompts.safetensors``, beside adapters and in exported models.

NumPy alone, so that an exported model reads it without torch.  Every package may import this module; of this project
it imports `storage` only.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from storage import parse_json, shortened

PROMPTS = "prompts.safetensors"
DIRECTIONS = ("a2b", "b2a")
MOST_BYTES = 32 << 20  # of a file; SDXL's two prompts have 1.3 MB


@dataclass(frozen=True)
class PromptEmbeddings:
    """Embeddings of prompts, and what they were computed by.

    Attributes:
        text_encoder: fingerprint of the text encoders that computed them, hexadecimal.
        prompts: text by direction.
        values: ``(L, D)`` float32 by direction.
    """

    text_encoder: str
    prompts: Mapping[str, str]
    values: Mapping[str, NDArray[np.float32]]

    @classmethod
    def read(cls, path: Path) -> "PromptEmbeddings":
        """Read a file, at bounded memory whatever it holds.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds anything else than embeddings of prompts by direction; one line.
        """
        if not path.is_file():
            raise FileNotFoundError(f"No embeddings of prompts at {path}.")
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"{path} is not read: it has {size:,} bytes, embeddings at most {MOST_BYTES:,}.")
        try:
            with safe_open(path, "numpy") as file:
                entries, slices = file.metadata() or {}, {name: file.get_slice(name) for name in file.keys()}
                shapes = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
                prompts = _prompts(entries.get("prompts", ""), set(shapes), path)
                for name, (kind, shape) in shapes.items():
                    if kind != "F32" or len(shape) != 2 or 0 in shape or shape != next(iter(shapes.values()))[1]:
                        raise ValueError(f"{path} is refused: {name} holds {kind} {shape}, not one (L, D) of float32.")
                values = {name: file.get_tensor(name) for name in shapes}
        except (SafetensorError, OSError) as error:
            raise ValueError(f"{path} is damaged: {shortened(str(error))}.") from error
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise ValueError(f"{path} is refused: {name} holds NaN or infinite values.")
        if not re.fullmatch("[0-9a-f]{1,64}", text_encoder := entries.get("text_encoder", "")):
            raise ValueError(f"{path} is refused: its text_encoder is {shortened(text_encoder)}, no fingerprint.")
        return cls(text_encoder, prompts, values)

    def to_bytes(self) -> bytes:
        """Content of the file."""
        entries = {"text_encoder": self.text_encoder, "prompts": json.dumps(dict(self.prompts))}
        return save({name: np.ascontiguousarray(value) for name, value in self.values.items()}, entries)


def _prompts(text: str, names: set[str], path: Path) -> dict[str, str]:
    """The prompts of a file's header, which must be those of its tensors.

    Raises:
        ValueError: they are not; one line.
    """
    prompts = parse_json(text, f"prompts in {path}", MOST_BYTES)
    if not names or set(prompts) != names or not names <= set(DIRECTIONS):
        raise ValueError(
            f"{path} is refused: it names prompts of {shortened(sorted(prompts))} and holds tensors "
            f"{shortened(sorted(names))}: both must name the same, of {' and '.join(DIRECTIONS)}."
        )
    for direction, prompt in prompts.items():
        if not isinstance(prompt, str):
            raise ValueError(f"{path} is refused: its prompt of {direction} is {shortened(prompt)}, no text.")
    return prompts
