"""Load base models: ``pocket``, a local folder in Hugging Face layout, or a hub id with a revision."""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import nn
from transformers import CLIPTextConfig, CLIPTokenizer

from networks.loading_bars import no_loading_bar
from networks.one_step.text_conditioning import Conditions, Parts, conditions_of
from storage import digest

POCKET = Path(__file__).parents[1] / "pocket"
Part = TypeVar("Part")
PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")


@dataclass
class Base:
    """A one-step text-to-image model, taken apart.

    Attributes:
        name: as asked for: "pocket", a folder, or ``owner/name[@revision]``.
        source: where the parts were read: a folder, or the hub id without its revision.
        revision: the hub revision, if one was named.
        random_init: whether the weights are seeded random numbers instead of the pretrained ones.
        vae: frozen autoencoder.
        unet: frozen UNet.
        alpha_bar: cumulative product at the last timestep (0.00466 for SD-Turbo).
        timestep: the last one (999).
        prediction_type: what the UNet predicts.
        conditions: the kind of conditioning that the UNet takes beside the latent.
        fingerprint: short hash over names, shapes and sampled values of UNet and VAE, equal for fp16 and fp32 files.
    """

    name: str
    source: str
    revision: str | None
    random_init: bool
    vae: AutoencoderKL
    unet: UNet2DConditionModel
    alpha_bar: float
    timestep: int
    prediction_type: str
    conditions: Conditions
    fingerprint: str

    @property
    def description(self) -> str:
        """One line for logs, cards and metrics.json."""
        return f"{self.name} at random weights" if self.random_init else self.name

    def load_text(self) -> Parts:
        """Tokenizers and frozen text encoders, loaded anew: they may leave memory once prompts are embedded."""
        where, found = _where(self.source, self.revision), []
        for k, (tokenizer_part, part, kind) in enumerate(self.conditions.parts):
            tokenizer = _read(CLIPTokenizer.from_pretrained, tokenizer_part, self.name, where)
            if self.random_init:
                config = _read(CLIPTextConfig.from_pretrained, part, self.name, where)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(2 + k)
                    encoder: nn.Module = kind(config)
            else:
                # Explicit: transformers would take the file's own precision.
                encoder = _read(kind.from_pretrained, part, self.name, where, dtype=torch.float32)
            found.append((tokenizer, encoder.requires_grad_(False).eval()))
        return found


def load_base(name: str = "pocket", random_init: bool = False) -> Base:
    """Load VAE, UNet and schedule of a base model.

    Args:
        name: "pocket"; else an existing folder; else a hub id ``owner/name[@revision]`` (it must hold a slash).
        random_init: build the architecture from its configs at seeded random weights (an ablation; tests).

    Raises:
        ValueError: the name is none of the three, or the base is of a kind that cannot work here.
        FileNotFoundError: a part is missing in the folder, or the hub cannot be reached.
    """
    revision: str | None = None
    if name == "pocket":
        source = str(POCKET)
    elif Path(name).is_dir():
        source = name
    elif "/" in name and not name.startswith((".", "/", "~")):
        source, _, tag = name.partition("@")
        revision = tag or None
    else:
        raise ValueError(
            f"Unknown base {name!r}: looked for 'pocket', a folder of that name here, "
            "or a hub id owner/name[@revision]. "
            "Give the folder that holds unet/, vae/, text_encoder/, tokenizer/ and scheduler/."
        )
    where = _where(source, revision)
    if random_init:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            vae = AutoencoderKL.from_config(_read(AutoencoderKL.load_config, "vae", name, where))
            torch.manual_seed(1)
            unet = UNet2DConditionModel.from_config(_read(UNet2DConditionModel.load_config, "unet", name, where))
    else:
        vae = _read(AutoencoderKL.from_pretrained, "vae", name, where)
        unet = _read(UNet2DConditionModel.from_pretrained, "unet", name, where)
    conditions = conditions_of(unet.config, name)
    if unet.config.in_channels != vae.config.latent_channels:
        raise ValueError(
            f"Base {name!r} cannot work here: its UNet takes {unet.config.in_channels} channels, its VAE gives "
            f"{vae.config.latent_channels}; direct conditioning feeds one to the other."
        )
    with torch.device("cpu"):  # values are read from it, so it is real even where the networks are on the meta device
        scheduler = _read(DDPMScheduler.from_pretrained, "scheduler", name, where)
    alpha_bar = float(scheduler.alphas_cumprod[-1])
    if alpha_bar <= 0 and scheduler.config.prediction_type == "epsilon":
        raise ValueError(
            f"Base {name!r} cannot work here: its schedule ends in pure noise (rescale_betas_zero_snr), from which "
            "no image can be estimated from a predicted noise."
        )
    return Base(
        name=name,
        source=source,
        revision=revision,
        random_init=random_init,
        vae=vae.requires_grad_(False).eval(),
        unet=unet.requires_grad_(False).eval(),
        alpha_bar=alpha_bar,
        timestep=scheduler.config.num_train_timesteps - 1,
        prediction_type=scheduler.config.prediction_type,
        conditions=conditions,
        fingerprint=fingerprint(unet, vae),
    )


def fingerprint(*modules: nn.Module) -> str:
    """Twelve hex digits over names, shapes and 16 values per tensor, rounded to fp16 so that both variants agree."""

    def pieces() -> Iterator[bytes]:
        for module in modules:
            for name, tensor in sorted(module.state_dict().items()):
                yield f"{name}{tuple(tensor.shape)}".encode()
                if not tensor.is_meta:
                    flat = tensor.detach().flatten()
                    yield flat[:: max(1, flat.numel() // 16)][:16].half().cpu().numpy().tobytes()

    return digest(pieces(), digits=12)


def _where(source: str, revision: str | None) -> dict[str, str]:
    return {"pretrained_model_name_or_path": source} | ({"revision": revision} if revision else {})


def _read(
    read: Callable[..., Part], part: str, name: str, where: dict[str, str], dtype: torch.dtype | None = None
) -> Part:
    """Read a part of a base by a `from_pretrained` or `load_config`."""
    path = where["pretrained_model_name_or_path"]
    folder = Path(path) / part
    is_local = Path(path).is_dir()
    if is_local and not folder.is_dir():
        raise FileNotFoundError(
            f"Base {name!r}: {folder} is missing. A base folder holds {', '.join(PARTS)} in Hugging Face layout "
            "(what `hf download stabilityai/sd-turbo --local-dir FOLDER` writes)."
        )
    try:
        options: dict[str, str | torch.dtype] = {**where, "subfolder": part} | ({"dtype": dtype} if dtype else {})
        if is_local and _only_half(folder):
            options["variant"] = "fp16"
        with no_loading_bar():
            try:
                return read(**options)
            except OSError:
                if is_local or part.startswith(("tokenizer", "scheduler")):
                    raise
                # A hub or mirror that holds the fp16 files only.
                with suppress(OSError, ValueError):
                    return read(**options, variant="fp16")
                raise
    except (OSError, ValueError, ImportError, json.JSONDecodeError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        if is_local:
            raise FileNotFoundError(f"Base {name!r}: cannot read {folder}: {reason}") from error
        raise FileNotFoundError(
            f"Base {name!r}: {part} could not be read from the hub ({reason}). "
            "Without a connection give a local folder in "
            "Hugging Face layout (base=/path/to/sd-turbo), or use the packaged base (base=pocket)."
        ) from error


def _only_half(folder: Path) -> bool:
    """Whether a part's weights are there as the fp16 variant alone."""
    weights = [path.name for suffix in ("safetensors", "bin") for path in folder.glob(f"*.{suffix}")]
    return bool(weights) and all(".fp16." in name for name in weights)
