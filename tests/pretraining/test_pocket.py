import json

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from commands import pocket
from networks.one_step.bases import POCKET, load_base
from networks.one_step.prompts import PromptEncoder
from pretraining.quality import classify
from pretraining.settings import read_settings
from pretraining.stages import PeriodicCheckpoint
from tests.commands.test_startup import started

SETTINGS = {
    "workers": 1,
    "checkpoint_every": 2,
    "data.count": 4,
    "data.size": 32,
    **dict.fromkeys(["autoencoder.steps", "teacher.steps", "distillation.steps"], 5),
    **dict.fromkeys(["autoencoder.batch_size", "teacher.batch_size", "distillation.batch_size"], 4),
    **dict.fromkeys(["autoencoder.grid_every", "teacher.grid_every", "distillation.grid_every"], 5),
    "autoencoder.crop": 24,
    "autoencoder.features": "random",
    "distillation.pairs": 6,
    "distillation.pairs_steps": 2,
    "distillation.pairs_batch": 3,
    "quality.count": 2,
    "quality.alike": 2,
    "quality.teacher_steps": 2,
}
STAGES = ("autoencoder", "teacher", "distillation")
TINY = {
    "vae": {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 4},
    "unet": {"block_out_channels": [16, 16, 16], "norm_num_groups": 8, "attention_head_dim": 2, "sample_size": 4},
    "text_encoder": {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
    "scheduler": {},
}


@pytest.fixture(scope="module")
def architecture(tmp_path_factory):
    folder = tmp_path_factory.mktemp("architecture")
    for part, changes in TINY.items():
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        config = json.loads((POCKET / part / name).read_text()) | changes
        if part == "unet":
            config["cross_attention_dim"] = 16
        (folder / part).mkdir()
        (folder / part / name).write_text(json.dumps(config))
    return folder


def arguments(work, architecture, *more, **changes):
    settings = {"architecture": architecture, **SETTINGS, **changes}
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return ["--device", "cpu", "--work", str(work), "--out", str(work / "out"), *sets, *more]


def train(work, architecture):
    stages = [word for stage in STAGES for word in ("--stage", stage)]
    return pocket.main(arguments(work, architecture, *stages))


@pytest.fixture(scope="module")
def made(tmp_path_factory, architecture):
    work = tmp_path_factory.mktemp("made")
    assert pocket.main(arguments(work, architecture)) == 0
    return work


def test_an_interrupted_stage_ends_bit_equal(made, tmp_path, architecture, monkeypatch):
    write = PeriodicCheckpoint.on_train_batch_end

    def interrupted(self, trainer, module, outputs, batch, batch_idx):
        write(self, trainer, module, outputs, batch, batch_idx)
        if batch["step"] == 2:  # the checkpoint of step 2 is written, the third step is lost
            raise RuntimeError("the power went")

    for _ in STAGES:
        monkeypatch.setattr(PeriodicCheckpoint, "on_train_batch_end", interrupted)
        with pytest.raises(RuntimeError, match="power"):
            train(tmp_path, architecture)
        monkeypatch.setattr(PeriodicCheckpoint, "on_train_batch_end", write)
        begun = next(s for s in STAGES if not json.loads((tmp_path / s / "stage.json").read_text())["finished"])
        assert pocket.main(arguments(tmp_path, architecture, "--stage", begun)) == 0
    files = ["autoencoder/vae", "teacher/unet", "teacher/text_encoder", "distillation/unet"]
    for name in files:
        ours, theirs = (load_file(work / f"{name}.safetensors") for work in (tmp_path, made))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs), name


def test_finished_stages_are_skipped(made, architecture, capsys):
    before = {path: path.stat().st_mtime_ns for path in made.glob("*/*.safetensors")}
    assert pocket.main(arguments(made, architecture)) == 0
    assert before == {path: path.stat().st_mtime_ns for path in before}
    printed = capsys.readouterr().out
    assert all(f"{stage}: finished" in printed for stage in STAGES)


def test_a_changed_setting_is_refused(made, architecture, capsys):
    changed = arguments(made, architecture, **{"teacher.lr": 0.25})
    assert pocket.main(changed) == 2
    error = capsys.readouterr().err
    assert "lr: 0.0005 -> 0.25" in error and "--again" in error and "teacher" in error


def test_a_changed_setting_is_redone_with_again(tmp_path, architecture):
    first = arguments(tmp_path, architecture, "--stage", "autoencoder", **{"autoencoder.steps": 1})
    again = arguments(tmp_path, architecture, "--stage", "autoencoder", "--again", **{"autoencoder.steps": 2})
    assert [pocket.main(first), pocket.main(again)] == [0, 0]
    assert json.loads((tmp_path / "autoencoder" / "stage.json").read_text())["steps"] == 2


def test_another_renderer_version_leaves_a_finished_stage_finished(made, architecture, monkeypatch):
    monkeypatch.setattr("datamodules.scenes.RENDERER_VERSION", 0)
    assert pocket.main(arguments(made, architecture, "--stage", "autoencoder")) == 0


def test_a_stage_says_what_it_needs_first(tmp_path, architecture, capsys):
    assert pocket.main(arguments(tmp_path, architecture, "--stage", "teacher")) == 2
    assert "--stage autoencoder" in capsys.readouterr().err


def test_the_folder_loads_without_this_project(made):
    out = made / "out"
    vae = AutoencoderKL.from_pretrained(out, subfolder="vae")
    unet = UNet2DConditionModel.from_pretrained(out, subfolder="unet")
    text_encoder = CLIPTextModel.from_pretrained(out, subfolder="text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(out, subfolder="tokenizer")
    tokens = tokenizer("driving in dense fog", padding="max_length", return_tensors="pt").input_ids
    assert tokens.shape == (1, 32)
    context = text_encoder(tokens).last_hidden_state
    assert context.dtype == unet.dtype == vae.dtype == torch.float32
    latent = unet(torch.zeros(1, 4, 4, 4), 999, context).sample
    assert vae.decode(latent).sample.shape == (1, 3, 32, 32)
    stored = load_file(out / "unet" / "diffusion_pytorch_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_the_exported_base_is_the_students(made):
    base = load_base(str(made / "out"))
    student = load_file(made / "distillation" / "unet.safetensors")
    assert all(torch.equal(base.unet.state_dict()[key], student[key].half().float()) for key in student)
    assert not base.random_init
    assert PromptEncoder(base)(["picture of a zebra"]).dtype == torch.float32


def test_latents_have_unit_variance_at_the_stored_scale(made):
    vae = load_base(str(made / "out")).vae
    scale = json.loads((made / "autoencoder" / "stage.json").read_text())["scaling_factor"]
    assert vae.config.scaling_factor == pytest.approx(scale)


def test_card_and_figures(made):
    report = json.loads((made / "out" / "quality.json").read_text())
    assert report["n"] == 12 and report["features"] == "lite0"
    assert {"fid", "kid", "probe", "probe_fixed_prompts"} <= report["one_step"].keys()
    text = (made / "out" / "README.md").read_text()
    assert f"{report['one_step']['fid']:.2f}" in text and "apache-2.0" in text
    assert (made / "out" / "samples.png").is_file()


@pytest.mark.parametrize(
    ("change", "said"), [("teacher.step=5", "teacher.step=5"), ("teacher.steps=few", "few"), ("seed", "KEY=VALUE")]
)
def test_wrong_settings_are_named(change, said, tmp_path, capsys):
    assert pocket.main(["--work", str(tmp_path), "--set", change]) == 2
    assert said in capsys.readouterr().err


def test_settings_of_every_kind_can_be_changed():
    changes = ["teacher.lr=1e-3", "distillation.noise_range=[0,9]", "workers=2", "autoencoder.features=vgg"]
    settings = read_settings(changes)
    assert settings.teacher.lr == 1e-3 and settings.distillation.noise_range == [0, 9]
    assert settings.workers == 2 and settings.autoencoder.features == "vgg"


def test_the_probe_separates_what_can_be_separated():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(80) % 2
    rows = torch.randn(80, 5, generator=draw) + 4 * labels[:, None]
    assert torch.equal(classify(rows[:40], labels[:40], rows[40:]), labels[40:])


@pytest.mark.parametrize(("words", "code", "says"), [(["--help"], 0, ""), (["--set=no.such=1"], 2, "no.such=1")])
def test_help_and_a_mistyped_setting_need_no_torch(words, code, says, tmp_path):
    found, error, heavy, _ = started("pocket", words, tmp_path)
    assert (found, heavy) == (code, set())
    assert says in error
