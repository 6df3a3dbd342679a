"""Malformed files end in one line, in under a second and in little memory; nothing in them is run."""

import json
import resource
import shutil
import tarfile
import time

import pytest
import torch

from datamodules.public import DATASETS
from datamodules.public.archives import unpack
from networks import OneStepGenerator, load_generator
from networks.checkpoints.adapter import save_adapter
from networks.checkpoints.card import AdapterCard, RunFacts
from networks.one_step.bases import load_base

from . import malformed

SECONDS, MEGABYTES = 2, 1024  # of CPU time per refusal, of all cases together


def read_all(cases, read):
    """Read every case; returns the messages by name. None may take long, or end in anything but one line."""
    messages, faults = {}, []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, path in cases:
        started = time.process_time()
        try:
            read(path)
            messages[name] = ""
        except (ValueError, OSError) as error:
            messages[name] = str(error)
            if not str(error) or len(str(error).splitlines()) > 2 or len(str(error)) > 2000:
                faults.append(f"{name}: {str(error)[:300]!r}")
        except Exception as error:
            faults.append(f"{name}: {type(error).__name__}: {error}")
        if messages.get(name, "escaped") and time.process_time() - started > SECONDS:
            faults.append(f"{name}: took {time.process_time() - started:.1f} s")
    assert faults == []
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < MEGABYTES
    return messages


@pytest.fixture(scope="module")
def good(two_level_base, tmp_path_factory):
    """An adapter folder and a checkpoint of one generator."""
    folder = tmp_path_factory.mktemp("good")
    generator = OneStepGenerator(str(two_level_base), directions=["a2b"], rank_unet=2, rank_vae=1)
    generator.prompts = {"a2b": "a day"}
    save_adapter(generator, folder / "adapter")
    state = {f"generator.{name}": tensor for name, tensor in generator.state_dict().items() if "lora" in name}
    state = {k: t for k, t in state.items() if k.removeprefix("generator.") in generator.trained_names}
    state |= {f"generator.{n}": generator.state_dict()[n] for n in generator.trained_names}
    torch.save({"state_dict": state, "adapter": AdapterCard.of(generator, RunFacts()).to_json()}, folder / "good.ckpt")
    return folder


def test_the_good_files_load(good):
    load_generator(good / "adapter")
    load_generator(good / "good.ckpt")


def test_malformed_adapters(good, tmp_path):
    messages = read_all(malformed.adapters(good / "adapter", tmp_path, count=15, seed=18), load_generator)
    for name in ("integers", "booleans", "eight_bits", "nan", "infinite"):
        assert "adapter.safetensors is refused: its weight " in messages[f"weights_{name}"]
    assert all(messages[f"card_{name}"] for name in malformed.TEXTS)


def test_malformed_checkpoints(good, tmp_path):
    messages = read_all(malformed.checkpoints(good / "good.ckpt", tmp_path, count=15, seed=18), load_generator)
    assert not (tmp_path / "it_ran").exists()
    assert "unpack to" in messages["deflated"] and "unpack to" in messages["repeated"]
    assert "one name" in messages["double"]
    assert "would run" in messages["runs"] and "bytearray" in messages["bytearray"]
    assert "is refused: its weight" in messages["nan"] and "is refused: its weight" in messages["integers"]
    assert [name for name, message in messages.items() if not message and not name.startswith("bytes")] == []


def test_malformed_bases(two_level_base, tmp_path):
    def read(path):
        base = load_base(str(path))
        base.conditions.encode(base.load_text(), ["a day"], "cpu")

    messages = read_all(malformed.bases(two_level_base, tmp_path, count=2, seed=18), read)
    for part in ("unet_diffusion_pytorch_model", "vae_diffusion_pytorch_model", "text_encoder_model"):
        assert "is a pickle" in messages[f"{part}_pickle"] and "safetensors" in messages[f"{part}_pickle"]
        assert "lacks 1 tensors" in messages[f"{part}_missing"]
        assert "NaN" in messages[f"{part}_nan"] and "I64" in messages[f"{part}_integers"]
    assert all(message for name, message in messages.items() if "changed" not in name)


def test_malformed_archives(tmp_path):
    layout = DATASETS["horse2zebra"].files
    with tarfile.open(good := tmp_path / "good.tgz", "w:gz") as file:
        for name in ("trainA/1.jpg", "trainB/1.jpg"):
            file.add(__file__, f"horse2zebra/{name}")

    def read(path):
        unpack(path, layout, tmp_path / "out" / path.name)

    messages = read_all(malformed.archives(good, tmp_path / "archives", count=10, seed=18), read)
    for name in ("bomb.zip", "bomb.tgz", "unwanted.tgz"):
        assert "unpacks to more than 50 times its size" in messages[name]
    for name in ("twice.tgz", "twice_by_prefix.tgz", "twice.zip"):
        assert "two of its members are horse2zebra/trainA/1.jpg" in messages[name]
    assert all(message for name, message in messages.items() if not name.startswith("bytes"))
    left = {path.relative_to(tmp_path / "out").parts[0] for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert all(messages[name.removesuffix(".tgz") if "bytes" in name else name] == "" for name in left)


def test_a_base_that_an_adapter_names_is_not_downloaded(good, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr("huggingface_hub.file_download.hf_hub_download", lambda *a, **k: asked.append(a))
    name_base(good, tmp_path / "adapter", "someone/else")
    with pytest.raises(ValueError, match=r"base 'someone/else' is not on this machine.*\(base=\)"):
        load_generator(tmp_path / "adapter")
    assert asked == []


def test_a_base_that_an_adapter_names_is_read_from_the_cache(good, two_level_base, tmp_path, monkeypatch):
    """Where the user downloaded it once, it is on this machine; nothing is asked of the hub."""
    monkeypatch.setattr(
        "networks.one_step.bases.try_to_load_from_cache",
        lambda source, file, revision: str(two_level_base / file) if source == "someone/else" else None,
    )
    name_base(good, tmp_path / "adapter", "someone/else")
    generator = load_generator(tmp_path / "adapter")
    assert generator.base_name == "someone/else"
    generator.encode_prompts(["a day"])


def name_base(good, folder, base):
    """A copy of the adapter whose card names another base."""
    shutil.copytree(good / "adapter", folder)
    card = json.loads((folder / "adapter.json").read_text()) | {"base": base}
    (folder / "adapter.json").write_text(json.dumps(card))
