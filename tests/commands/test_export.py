import json

import pytest
import torch

from commands.export import main
from networks import OneStepGenerator, ResnetGenerator, load_generator
from networks.checkpoints.adapter import save_adapter
from networks.checkpoints.card import RunFacts


@pytest.fixture
def adapter(tiny_base, tmp_path):
    torch.manual_seed(0)
    generator = OneStepGenerator(str(tiny_base), rank_unet=4, rank_vae=2)
    generator.prompts = {"a2b": "driving in dense fog", "b2a": "driving on a clear day"}
    with torch.no_grad():
        for p in generator.parameters():
            if p.requires_grad:
                p.add_(torch.randn_like(p) * 0.02)
    return save_adapter(generator, tmp_path / "adapter", RunFacts(task="unpaired", images_seen=7))


def test_released(adapter, tiny_base, tmp_path, capsys):
    assert main([f"--ckpt={adapter}", "--format=released", f"--out={tmp_path / 'out'}"]) == 0
    printed = capsys.readouterr().out
    card = json.loads((tmp_path / "out" / "adapter.json").read_text())
    assert card["images_seen"] == 7
    assert card["exported"]["format"] == "released"
    for words in ("driving in dense fog", "conv_in's bias"):
        assert words in printed
        assert any(words in phrase for phrase in card["exported"]["cannot_hold"])
    load_generator(tmp_path / "out" / "released.pkl", str(tiny_base))


def test_diffusers(adapter, tmp_path, capsys):
    assert main([f"--ckpt={adapter}", "--format=diffusers", f"--out={tmp_path / 'out'}"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"pytorch_lora_weights.safetensors", "conv_in.safetensors", "adapter.json"}
    printed = capsys.readouterr().out
    assert "MiB" in printed and "skip convolutions" in printed


def test_bad_input_gets_a_line(adapter, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    resnet = ResnetGenerator(["a2b"], width=4, blocks=1)
    save_adapter(resnet, tmp_path / "resnet")
    for arguments, words in (
        ([f"--ckpt={adapter}", "--format=released-stochastic", f"--out={tmp_path / 'o'}"], "stochastic"),
        ([f"--ckpt={adapter}", "--format=released", f"--out={tmp_path / 'file'}"], "is a file, not a folder"),
        ([f"--ckpt={tmp_path / 'no'}", "--format=released", f"--out={tmp_path / 'o'}"], "No checkpoint"),
        ([f"--ckpt={tmp_path / 'resnet'}", "--format=diffusers", f"--out={tmp_path / 'o'}"], "plain ResNet"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert error.count("error: ") == 1 and words in error
    assert not (tmp_path / "o").exists()
