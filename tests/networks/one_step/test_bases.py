import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL

from networks.one_step.bases import fingerprint, load_base


def test_pocket_comes_with_its_weights():
    base = load_base("pocket")
    assert base.description == "pocket" and not base.random_init


def test_random_init_is_seeded_and_leaves_the_global_generator_alone(tiny_base):
    state = torch.get_rng_state()
    first, second = load_base(str(tiny_base), random_init=True), load_base(str(tiny_base), random_init=True)
    assert first.fingerprint == second.fingerprint != load_base(str(tiny_base)).fingerprint
    assert "random weights" in first.description
    assert torch.equal(state, torch.get_rng_state())


def test_fingerprint_sees_a_changed_weight_and_not_the_file_format(tiny_base):
    base = load_base(str(tiny_base))
    assert fingerprint(base.unet.half().float(), base.vae) == base.fingerprint
    with torch.no_grad():
        base.unet.conv_in.bias += 1
    assert fingerprint(base.unet, base.vae) != base.fingerprint


def test_a_folder_of_fp16_files_alone_is_the_same_base(tiny_base, tmp_path):
    """Half of the download: `--variant fp16`; everything is computed in float32 all the same."""
    base, folder = load_base(str(tiny_base)), tmp_path / "base"
    ((tokenizer, text_encoder),) = base.load_text()
    for part, model in (("unet", base.unet), ("vae", base.vae), ("text_encoder", text_encoder)):
        model.half().save_pretrained(folder / part, variant="fp16")
        assert all(".fp16." in path.name for path in (folder / part).glob("*.safetensors"))
    tokenizer.save_pretrained(folder / "tokenizer")
    shutil.copytree(tiny_base / "scheduler", folder / "scheduler")
    half = load_base(str(folder))
    assert half.fingerprint == load_base(str(tiny_base)).fingerprint
    for model in (half.unet, half.vae, half.load_text()[0][1]):
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_hub_with_fp16_files_alone_is_asked_for_them(tiny_base, monkeypatch):
    asked = []

    def from_pretrained(pretrained_model_name_or_path, subfolder, variant=None, **options):
        asked.append((pretrained_model_name_or_path, options.get("revision"), variant))
        if variant is None:
            raise OSError("no file named diffusion_pytorch_model.bin")
        return whole(tiny_base, subfolder=subfolder, output_loading_info=True)

    whole = AutoencoderKL.from_pretrained
    monkeypatch.setattr(AutoencoderKL, "from_pretrained", from_pretrained)
    with pytest.raises(FileNotFoundError, match="unet could not be read"):  # the hub itself is not there
        load_base("someone/half@v1")
    assert asked == [("someone/half", "v1", None), ("someone/half", "v1", "fp16")]


@pytest.mark.parametrize("name", ["nonsense", "./not/there"])
def test_unknown_base_names_what_was_looked_for(name):
    with pytest.raises(ValueError, match=f"Unknown base '{name}'"):
        load_base(name)


def test_hub_without_connection_says_how_to_give_a_folder():
    with pytest.raises(FileNotFoundError, match=r"(?s)someone/no-such-model.*local folder"):
        load_base("someone/no-such-model@main")


def test_missing_part_and_broken_config_are_named(tiny_base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    shutil.rmtree(folder / "vae")
    with pytest.raises(FileNotFoundError, match="vae is missing"):
        load_base(str(folder))
    shutil.copytree(tiny_base / "vae", folder / "vae")
    (folder / "vae" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="cannot read"):
        load_base(str(folder))


def test_a_unet_that_asks_for_more_is_refused(tiny_base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    config |= {"class_embed_type": "timestep"}
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"asks for more than prompt and size \(class_embed_type=timestep"):
        load_base(str(folder), random_init=True)


def test_unet_that_does_not_take_the_latent_is_refused(tiny_base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps(config | {"in_channels": 8}))
    with pytest.raises(ValueError, match="takes 8 channels"):
        load_base(str(folder), random_init=True)


def test_a_schedule_that_ends_in_pure_noise_is_refused(tiny_base, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(tiny_base, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rescale_betas_zero_snr": True}))
    with pytest.raises(ValueError, match="ends in pure noise"):
        load_base(str(folder))
