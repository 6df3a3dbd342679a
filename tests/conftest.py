"""What tests of several packages share: a base model of a few thousand weights in Hugging Face layout."""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = (
    "1"  # before the libraries below read it: a test that reaches for a hub must fail at once
)

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from jsonargparse._common import parsing_settings
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from networks import OneStepGenerator
from networks.checkpoints.adapter import save_adapter
from networks.checkpoints.card import RunFacts
from networks.one_step.bases import POCKET
from tests.browser import browser_page  # noqa: F401  a fixture for all tests


@pytest.fixture(autouse=True)
def _import_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undo what `commands.cli.trust.limit_parser` did: a process runs one command, a test process many."""
    for name in ("import_path_verdicts", "import_paths_enforced"):
        monkeypatch.setitem(parsing_settings, name, parsing_settings[name])


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random base: Stable Diffusion's four VAE levels, the pocket base's tokenizer and schedule."""
    return save_base(tmp_path_factory.mktemp("tiny_base"), (8, 8, 16, 16))


@pytest.fixture(scope="session")
def adapter(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of an unpaired adapter of the tiny base, at seeded random values that change every image."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = OneStepGenerator(str(tiny_base), rank_unet=2, rank_vae=2)
        with torch.no_grad():
            for parameter in generator.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    generator.prompts = {"a2b": "driving in the night", "b2a": "driving in the day"}
    return save_adapter(generator, tmp_path_factory.mktemp("run") / "adapter", RunFacts(task="unpaired"))


@pytest.fixture(scope="session")
def two_level_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two VAE levels: half the layers, for tests that train."""
    return save_base(tmp_path_factory.mktemp("two_level_base"), (8, 16))


@pytest.fixture(scope="session")
def sdxl_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random base of SDXL's kind: two text encoders, pooled embedding and size conditions, its own scaling."""
    more = {
        "cross_attention_dim": 16 + 24,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + 12,
        "transformer_layers_per_block": (1, 2),
    }
    folder = save_base(tmp_path_factory.mktemp("sdxl_base"), (8, 16), scaling=0.13025, **more)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", pad_token="!")
    tokenizer.save_pretrained(folder / "tokenizer_2")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        config = text_config(tokenizer, hidden_size=24, projection_dim=12, hidden_act="gelu")
        CLIPTextModelWithProjection(config).save_pretrained(folder / "text_encoder_2")
    return folder


def text_config(tokenizer: CLIPTokenizer, **changes: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        **{
            "vocab_size": len(tokenizer),
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            **changes,
        }
    )


def save_base(folder: Path, channels: tuple[int, ...], scaling: float = 0.18215, **unet_changes: Any) -> Path:
    tokenizer = CLIPTokenizer.from_pretrained(POCKET / "tokenizer")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vae = AutoencoderKL(
            block_out_channels=channels,
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            layers_per_block=1,
            norm_num_groups=4,
            latent_channels=4,
            scaling_factor=scaling,
        )
        unet = UNet2DConditionModel(
            **{
                "sample_size": 8,
                "block_out_channels": (8, 16),
                "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
                "layers_per_block": 1,
                "norm_num_groups": 4,
                "attention_head_dim": (2, 4),
                "cross_attention_dim": 16,
                "use_linear_projection": True,
                **unet_changes,
            }
        )
        text_encoder = CLIPTextModel(text_config(tokenizer))
    vae.save_pretrained(folder / "vae")
    unet.save_pretrained(folder / "unet")
    text_encoder.save_pretrained(folder / "text_encoder")
    DDPMScheduler.from_pretrained(POCKET / "scheduler").save_pretrained(folder / "scheduler")
    shutil.copytree(POCKET / "tokenizer", folder / "tokenizer")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads what another, or the developer's own runs, cached."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("ONE_STEP_CACHE", str(folder))
    return folder


@contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """No file of this process can grow beyond a number of bytes inside; further writes fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def full_at() -> Callable[[int], AbstractContextManager[None]]:
    """Context in which every write beyond a byte fails."""
    return file_size_limit


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB; needs the right to mount."""
    folder = tmp_path / "small_disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
