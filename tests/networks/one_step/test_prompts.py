"""Embeddings that are stored, and the fingerprint that says which text encoder they are of."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

from networks.one_step import prompts
from networks.one_step.bases import load_base
from networks.one_step.prompts import PromptEncoder
from networks.one_step.text_fingerprint import text_fingerprint

TEXTS = {"a2b": "a foggy day", "b2a": "a clear day"}


@pytest.fixture
def folder(tiny_base, tmp_path):
    """A base to change."""
    return shutil.copytree(tiny_base, tmp_path / "base")


def text_of(folder):
    return CLIPTextModel.from_pretrained(folder / "text_encoder")


def test_the_fingerprint_is_of_the_weights_not_of_their_file(folder):
    expected = text_fingerprint(load_base(str(folder)))
    encoder = text_of(folder)
    weights = folder / "text_encoder" / "model.safetensors"
    save_file(load_file(weights) | {"text_model.embeddings.position_ids": torch.arange(32)[None]}, weights)
    assert text_fingerprint(load_base(str(folder))) == expected, "the positions of older files are no weights"
    for options in ({"max_shard_size": "20kB"}, {"variant": "fp16"}, {"variant": "fp16", "max_shard_size": "10kB"}):
        shutil.rmtree(folder / "text_encoder")
        (encoder.half() if "variant" in options else encoder).save_pretrained(folder / "text_encoder", **options)
        shards = sorted((folder / "text_encoder").glob("*.safetensors"))
        assert (len(shards) > 1) is ("max_shard_size" in options), options
        assert text_fingerprint(load_base(str(folder))) == expected, options
    shards[-1].unlink()
    assert text_fingerprint(load_base(str(folder))) is None, "a part of the weights is on this machine"


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2"])
def test_the_fingerprint_sees_every_encoder_and_every_tensor(part, sdxl_base, tmp_path):
    folder = shutil.copytree(sdxl_base, tmp_path / "base")
    base, weights = load_base(str(folder)), folder / part / "model.safetensors"
    tensors = load_file(weights)
    found = {text_fingerprint(base)}
    for name in tensors:
        save_file({**tensors, name: tensors[name] + 1}, weights)
        found.add(text_fingerprint(base))
    assert len(found) == 1 + len(tensors)


def test_random_weights_have_a_fingerprint_of_their_own(folder):
    one, other = load_base(str(folder), random_init=True), load_base(str(folder))
    assert text_fingerprint(one) == text_fingerprint(load_base(str(folder), random_init=True))
    found = {text_fingerprint(one), text_fingerprint(other)}
    config = folder / "text_encoder" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"hidden_act": "gelu"}))
    assert len({*found, text_fingerprint(one)}) == 3


def test_a_damaged_encoder_is_one_line(folder):
    (folder / "text_encoder" / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"cannot read its text_encoder: .*header too small"):
        text_fingerprint(load_base(str(folder)))


def test_the_hubs_cache_is_read_and_the_hub_never_asked(tiny_base, tmp_path, monkeypatch):
    base = load_base(str(tiny_base))
    hub = replace(base, source="someone/base")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("socket.socket", lambda *a, **k: pytest.fail("the hub was asked"))
    assert text_fingerprint(hub) is None
    cached = tmp_path / "models--someone--base"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    part = cached / "snapshots" / "abc" / "text_encoder"
    part.mkdir(parents=True)
    shutil.copy(tiny_base / "text_encoder" / "config.json", part)
    assert text_fingerprint(hub) is None, "the config alone"
    shutil.copy(tiny_base / "text_encoder" / "model.safetensors", part)
    assert text_fingerprint(hub) == text_fingerprint(base)
    assert text_fingerprint(replace(hub, revision="v2")) is None


def test_embeddings_to_store_are_those_that_training_used(tiny_base, monkeypatch):
    base = load_base(str(tiny_base))
    encoder = PromptEncoder(base)
    assert encoder.embedded(TEXTS) is None, "no text encoder is loaded for it"
    context = encoder([*TEXTS.values()])
    encoder.release()
    monkeypatch.setattr(base, "load_text", lambda: pytest.fail("the text encoder was loaded"))
    stored = encoder.embedded(TEXTS)
    assert (stored.prompts, stored.text_encoder) == (TEXTS, text_fingerprint(base))
    for row, direction in zip(context, TEXTS, strict=True):
        assert torch.equal(torch.from_numpy(stored.values[direction]), row)


def test_a_prompt_that_left_the_cache_is_embedded_without_changing_it(tiny_base, monkeypatch):
    """With more captions than it holds, the text encoder stays in memory, and the prompt may not be cached."""
    monkeypatch.setattr(prompts, "CACHE", 2)
    encoder = PromptEncoder(load_base(str(tiny_base)))
    expected = encoder([TEXTS["a2b"]])
    encoder(["one", "two"])
    before = list(encoder._cache)
    assert TEXTS["a2b"] not in before
    stored = encoder.embedded({"a2b": TEXTS["a2b"]})
    torch.testing.assert_close(torch.from_numpy(stored.values["a2b"]), expected[0])
    assert list(encoder._cache) == before


def test_many_prompts_are_read_in_parts(tiny_base, monkeypatch):
    texts = [f"street {k}" for k in (*range(5), 0)]
    expected = torch.cat([PromptEncoder(load_base(str(tiny_base)))([text]) for text in texts])
    monkeypatch.setattr(prompts, "AT_ONCE", 2)
    base = load_base(str(tiny_base))
    encode, read = base.conditions.encode, []
    monkeypatch.setattr(
        type(base.conditions),
        "encode",
        lambda self, parts, some, device: [read.append(some), encode(parts, some, device)][1],
    )
    torch.testing.assert_close(PromptEncoder(base)(texts), expected)
    assert read == [texts[:2], texts[2:4], texts[4:5]]


@pytest.mark.parametrize("kind", ["tiny_base", "sdxl_base"])
def test_a_prompt_that_is_cut_is_said_once_with_the_words_that_are_not_read(kind, request, caplog, monkeypatch):
    monkeypatch.setattr(prompts, "CACHE", 1)
    encoder = PromptEncoder(load_base(str(request.getfixturevalue(kind))))
    long, short = "  fog " * 30 + "at  night", "fog " * 30  # with start and end, 32 tokens
    one, other, _ = encoder([long, short, "sun"])
    assert torch.equal(one, other)
    encoder([short, long])
    (line,) = [record.getMessage() for record in caplog.records]
    assert "longer than the 32 tokens that are read: 'at night' has no effect." in line and "\n" not in line
    encoder([f"{long} {k}" for k in range(100)])
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == prompts.TOLD and lines[-1].endswith("Further prompts that are too long are not named.")
