import json
import os

import numpy as np
import pytest
from safetensors.numpy import save

from prompt_embeddings import PROMPTS, PromptEmbeddings

TEXTS = {"a2b": "a street at night", "b2a": 'a "day" — ☀'}


def embeddings(**changes):
    values = {d: np.random.default_rng(k).normal(size=(5, 4)).astype(np.float32) for k, d in enumerate(TEXTS)}
    return PromptEmbeddings(**{"text_encoder": "0e7490166411", "prompts": TEXTS, "values": values, **changes})


def test_what_is_written_is_read_to_the_bit(tmp_path):
    written, path = embeddings(), tmp_path / PROMPTS
    path.write_bytes(written.to_bytes())
    read = PromptEmbeddings.read(path)
    assert (read.text_encoder, read.prompts) == (written.text_encoder, TEXTS)
    assert {d: v.tobytes() for d, v in read.values.items()} == {d: v.tobytes() for d, v in written.values.items()}


GOOD = embeddings().values
ENTRIES = {"text_encoder": "ab12", "prompts": json.dumps(TEXTS)}
HOSTILE = {
    "no file of this kind": (b"PK\x03\x04" + bytes(100), "damaged"),
    "cut off": (embeddings().to_bytes()[:-1], "damaged"),
    "empty": (b"", "damaged"),
    "too large": (bytes((32 << 20) + 1), "33,554,433 bytes"),
    "no entries": (save(GOOD), "no JSON"),
    "no prompts": (save(GOOD, {"text_encoder": "ab12"}), "no JSON"),
    "prompts as a list": (save(GOOD, {**ENTRIES, "prompts": "[]"}), "JSON object"),
    "a prompt that is no text": (save(GOOD, {**ENTRIES, "prompts": '{"a2b": 1, "b2a": "x"}'}), "prompt of a2b is 1"),
    "a prompt without embedding": (save({"a2b": GOOD["a2b"]}, ENTRIES), "refused: it names prompts of"),
    "another direction": (save({"c": GOOD["a2b"]}, {**ENTRIES, "prompts": '{"c": "x"}'}), "of a2b and b2a"),
    "nothing": (save({}, {**ENTRIES, "prompts": "{}"}), "refused"),
    "no fingerprint": (save(GOOD, {"prompts": ENTRIES["prompts"]}), "text_encoder is ''"),
    "doubles": (save({d: v.astype(np.float64) for d, v in GOOD.items()}, ENTRIES), r"holds F64 \(5, 4\)"),
    "one axis": (save({d: v[0] for d, v in GOOD.items()}, ENTRIES), r"holds F32 \(4,\)"),
    "no tokens": (save({d: v[:0] for d, v in GOOD.items()}, ENTRIES), r"holds F32 \(0, 4\)"),
    "two shapes": (save({**GOOD, "b2a": GOOD["b2a"][:2].copy()}, ENTRIES), r"holds F32 \(2, 4\)|holds F32 \(5, 4\)"),
    "not a number": (save({**GOOD, "b2a": GOOD["b2a"] * np.float32("nan")}, ENTRIES), "b2a holds NaN"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_anything_else_is_one_line(name, tmp_path):
    content, message = HOSTILE[name]
    path = tmp_path / PROMPTS
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        PromptEmbeddings.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / PROMPTS)  # its reading would never end
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=PROMPTS):
            PromptEmbeddings.read(folder / PROMPTS)
