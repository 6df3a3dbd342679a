import socket

import huggingface_hub
import pytest
import torch

from commands import doctor


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("doctor must not open a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_this_machine_can_train(capsys):
    assert doctor.main([]) == 0
    printed = capsys.readouterr().out
    assert torch.__version__.split("+")[0] in printed
    assert "Training can run here." in printed
    for name in ("pocket", "stabilityai/sd-turbo", "lite0", "lite1", "inception", "clip", "dino", "vgg"):
        assert name in printed


def test_pocket_without_weights_is_missing(monkeypatch, tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text("{}")
    monkeypatch.setattr("networks.one_step.bases.POCKET", tmp_path)
    assert doctor.bases()[0].value == "missing"
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").touch()
    assert doctor.bases()[0].value == "pretrained"


def test_an_incomplete_checkout_is_a_problem(monkeypatch, tmp_path):
    monkeypatch.setattr("networks.one_step.bases.POCKET", tmp_path)
    assert str(tmp_path) in doctor.bases()[0].problem


@pytest.mark.parametrize(
    ("requirement", "said"),
    [("no-such-package>=1", "no-such-package is not installed"), ("torch>=900", "torch"), ("torch<1", "torch")],
)
def test_a_missing_or_wrong_package_is_a_problem(requirement, said):
    (finding,) = doctor.packages([requirement])
    assert said in finding.problem
    assert "make setup" in finding.problem


def test_a_problem_gives_exit_code_1(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "python", lambda wanted: doctor.Finding("python", "3.9", "Python is too old"))
    assert doctor.main([]) == 1
    printed = capsys.readouterr().out
    assert "problem: Python is too old" in printed
    assert "Training can run here." not in printed


def test_python_is_held_against_the_declared_range():
    assert doctor.python(">=3.10").problem is None
    assert ">=4" in doctor.python(">=4").problem


def test_weights_named_by_the_environment_are_listed(monkeypatch, tmp_path):
    monkeypatch.setenv("ONE_STEP_WEIGHTS_CLIP", str(tmp_path))
    monkeypatch.setenv("ONE_STEP_WEIGHTS_DINO", "no/where")
    listed = {finding.name.split()[0]: finding.value for finding in doctor.feature_networks()}
    assert listed["clip"] == f"ONE_STEP_WEIGHTS_CLIP={tmp_path}"
    assert listed["dino"].startswith("ONE_STEP_WEIGHTS_DINO=no/where, which does not exist")
    assert listed["vgg"].startswith(("found", "not in"))


def test_cached_weights_are_found(monkeypatch, tmp_path):
    from torchvision.models import VGG16_Weights

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    before = {finding.name: finding.value for finding in doctor.feature_networks()}
    assert before["vgg (LPIPS)"].startswith("not in")
    assert "not in" in before["clip (discriminator)"]

    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / VGG16_Weights.IMAGENET1K_V1.url.rpartition("/")[2]).touch()
    repository = cache / "models--openai--clip-vit-base-patch32"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "model.safetensors").touch()
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    after = {finding.name: finding.value for finding in doctor.feature_networks()}
    assert after["vgg (LPIPS)"].startswith("found")
    assert "not in" not in after["clip (discriminator)"]
