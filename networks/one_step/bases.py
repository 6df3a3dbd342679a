"""Load base models: ``pocket``, a local folder in Hugging Face layout, or a hub id with a revision."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from networks.one_step.text_conditioning import Conditions, Parts, TextEncoder, conditions_of
from networks.pretrained import check_folder, quiet, read_network
from storage import digest, shortened

POCKET = Path(__file__).parents[1] / "pocket"
Part = TypeVar("Part")
PARTS = ("vae", "unet", "text_encoder", "tokenizer", "scheduler")
HUB_BASES = ("stabilityai/sd-turbo", "stabilityai/sdxl-turbo")
"""Hub ids of experiments/base/: the only ones that are fetched because an adapter names them."""
WEIGHTS = {"use_safetensors": True}  # and never a pickle

_fetches: ContextVar[bool] = ContextVar("fetches", default=True)


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
            _check_part(tokenizer_part, self.name, where, None, self.random_init)
            tokenizer = _read(CLIPTokenizer.from_pretrained, tokenizer_part, self.name, where)

            def build(config: Mapping[str, Any], kind: TextEncoder = kind) -> nn.Module:
                return kind(CLIPTextConfig(**config))

            _check_part(part, self.name, where, build, self.random_init)
            encoder: CLIPTextModel | CLIPTextModelWithProjection
            if self.random_init:
                config = _read(CLIPTextConfig.from_pretrained, part, self.name, where)
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(2 + k)
                    encoder = kind(config)
            else:
                # Explicit: transformers would take the file's own precision.
                encoder = _read(partial(read_network, kind), part, self.name, where, **WEIGHTS, dtype=torch.float32)
            longest, made = encoder.config.to_dict()["max_position_embeddings"], tokenizer.model_max_length
            if not isinstance(made, int) or not 0 < made <= longest:
                raise ValueError(
                    f"Base {self.name!r} cannot work here: its {tokenizer_part} makes {shortened(made)} tokens of a "
                    f"prompt (model_max_length), its {part} takes {longest}."
                )
            words, known = len(tokenizer), encoder.config.to_dict()["vocab_size"]
            if words > known:
                raise ValueError(
                    f"Base {self.name!r} cannot work here: its {tokenizer_part} has {words} words, its {part} {known}."
                )
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
    source, revision = _source(name)
    where = _where(source, revision)
    _check_part("vae", name, where, AutoencoderKL.from_config, random_init)
    _check_part("unet", name, where, UNet2DConditionModel.from_config, random_init)
    _check_part("scheduler", name, where, None, random_init)
    if random_init:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            vae = AutoencoderKL.from_config(_read(AutoencoderKL.load_config, "vae", name, where))
            torch.manual_seed(1)
            unet = UNet2DConditionModel.from_config(_read(UNet2DConditionModel.load_config, "unet", name, where))
    else:
        vae = _read(partial(read_network, AutoencoderKL), "vae", name, where, **WEIGHTS)
        unet = _read(partial(read_network, UNet2DConditionModel), "unet", name, where, **WEIGHTS)
    conditions = conditions_of(unet.config, name)
    if unet.config.in_channels != vae.config.latent_channels:
        raise ValueError(
            f"Base {name!r} cannot work here: its UNet takes {unet.config.in_channels} channels, its VAE gives "
            f"{vae.config.latent_channels}; direct conditioning feeds one to the other."
        )
    with torch.device("cpu"):  # values are read from it, so it is real even where the networks are on the meta device
        scheduler = _read(DDPMScheduler.from_pretrained, "scheduler", name, where)
    alpha_bar = float(scheduler.alphas_cumprod[-1])
    if not 0 <= alpha_bar < 1:
        raise ValueError(
            f"Base {name!r} cannot work here: its schedule ends at alpha_bar = {alpha_bar}, not in [0, 1)."
        )
    if alpha_bar == 0 and scheduler.config.prediction_type == "epsilon":
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


@contextmanager
def named_by_file() -> Iterator[None]:
    """Context in which the hub is asked for the bases of experiments/base/ only: a file may name any other id."""
    token = _fetches.set(False)
    try:
        yield
    finally:
        _fetches.reset(token)


def may_fetch() -> bool:
    """Whether the hub may be asked for what has no name in experiments/base/; see `named_by_file`."""
    return _fetches.get()


def _source(name: str) -> tuple[str, str | None]:
    """Folder or hub id of a base, and the hub revision if one is named.

    Raises:
        ValueError: the name is neither, or the hub may not be asked for it.
    """
    if name == "pocket":
        return str(POCKET), None
    if Path(name).is_dir():
        return name, None
    if "/" not in name or name.startswith((".", "/", "~")):
        raise ValueError(
            f"Unknown base {name!r}: looked for 'pocket', a folder of that name here, "
            "or a hub id owner/name[@revision]. "
            "Give the folder that holds unet/, vae/, text_encoder/, tokenizer/ and scheduler/."
        )
    source, _, tag = name.partition("@")
    if may_fetch() or source in HUB_BASES:
        return source, tag or None
    with suppress(ValueError):  # no hub id
        cached = try_to_load_from_cache(source, "unet/config.json", revision=tag or None)
        if isinstance(cached, str):
            return str(Path(cached).parents[1]), None
    raise ValueError(
        f"The base {shortened(name)} is not on this machine, and what an adapter or a run names is not downloaded, "
        f"except {' and '.join(HUB_BASES)}. Give that base yourself if you trust it (base=)."
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


def _read(read: Callable[..., Part], part: str, name: str, where: dict[str, str], **more: Any) -> Part:
    """Read a part of a base by a `from_pretrained`, `load_config` or `read_network`, with `more` arguments."""
    path = where["pretrained_model_name_or_path"]
    is_local = Path(path).is_dir()
    folder = _local_part(Path(path), part, name) if is_local else Path()
    options = {**where, "subfolder": part, **more}
    if is_local and _only_half(folder):
        options["variant"] = "fp16"
    try:
        with quiet():
            try:
                return read(**options)
            except OSError:
                if is_local or not more:
                    raise
                # A hub or mirror that holds the fp16 files only.
                with suppress(OSError, ValueError):
                    return read(**options, variant="fp16")
                raise
    except Exception as error:  # of whatever kind a library raises that does not check what it reads
        reason = _first_line(error)
        if is_local:
            raise FileNotFoundError(f"Base {name!r}: cannot read {folder}: {reason}") from error
        raise FileNotFoundError(
            f"Base {name!r}: {part} could not be read from the hub ({reason}). "
            "Without a connection give a local folder in "
            "Hugging Face layout (base=/path/to/sd-turbo), or use the packaged base (base=pocket)."
        ) from error


def _check_part(
    part: str,
    name: str,
    where: dict[str, str],
    build: Callable[[Mapping[str, Any]], nn.Module] | None,
    random_init: bool,
) -> None:
    """Check the files of a part before it is built; the hub's are not here yet.

    Raises:
        FileNotFoundError: the part is missing.
        ValueError: see `check_folder`.
    """
    path = Path(where["pretrained_model_name_or_path"])
    if not path.is_dir():
        return
    folder = _local_part(path, part, name)
    try:
        with quiet():
            check_folder(folder, build, random_init)
    except Exception as error:  # a config may make the library's constructors fail in any way
        raise ValueError(f"Base {name!r}: cannot read its {part}: {_first_line(error)}.") from error


def _local_part(path: Path, part: str, name: str) -> Path:
    if not (path / part).is_dir():
        raise FileNotFoundError(
            f"Base {name!r}: {path / part} is missing. A base folder holds {', '.join(PARTS)} in Hugging Face layout "
            "(what `hf download stabilityai/sd-turbo --local-dir FOLDER` writes)."
        )
    return path / part


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".")


def _only_half(folder: Path) -> bool:
    """Whether a part's weights are there as the fp16 variant alone."""
    weights = [path.name for suffix in ("safetensors", "bin") for path in folder.glob(f"*.{suffix}")]
    return bool(weights) and all(".fp16." in name for name in weights)
