"""The end-to-end generator: (image, prompt embedding, direction) -> image, in one step (arXiv 2403.12036, Sec. 3)."""

import logging
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from networks.checkpoints.adapter import read_adapter
from networks.checkpoints.card import Adapter
from networks.checkpoints.settings import (
    ConditioningName,
    Direction,
    FrozenDtype,
    OneStepSettings,
    Range,
    SkipInit,
)
from networks.contract import ImageTranslator
from networks.one_step.autoencoder import SkipAutoencoder
from networks.one_step.bases import load_base
from networks.one_step.compiling import compile_repeated_blocks
from networks.one_step.diffusion import blend, noise_map, predict_x0
from networks.one_step.image_branches import build_branch
from networks.one_step.lora import (
    UNET_TARGETS,
    VAE_TARGETS,
    TrainedConv,
    checkpoint,
    inject_lora,
    merge_lora,
    modulated,
    share_parameters,
    store_in_bfloat16,
    trainable_names,
)
from networks.one_step.prompt_code import PromptCode
from networks.one_step.prompts import PromptEncoder

TYPICAL = 256  # training prompts that stand for all

log = logging.getLogger(__name__)


class OneStepGenerator(ImageTranslator):
    """A one-step text-to-image model turned into an image-to-image network.

    One UNet serves every direction, selected by the prompt; each direction has its own VAE adapters and skip
    convolutions over ONE frozen VAE.  What trains: LoRA on UNet and VAE, the UNet's `conv_in` in
    full, the skip convolutions.

    Args:
        base: "pocket", a local folder in Hugging Face layout, or a hub id ``owner/name[@revision]``.
        random_init: take only the base's architecture, at seeded random weights (ablation).
        directions: "a2b" alone (paired) or with "b2a" (unpaired).
        rank_unet: LoRA rank of the UNet.
        rank_vae: LoRA rank of both halves of the VAE.
        alpha_unet: LoRA scale is alpha / rank; None takes the rank (scale 1).
        alpha_vae: likewise for the VAE (released value 8 at rank 4, so scale 2).
        skips: False leaves out the skip connections.
        skip_init: initial value of every skip weight, or "gaussian".
        input_range: range of the VAE's input, "[-1, 1]" or "[0, 1]" (released paired files).
        conditioning: how the image reaches the UNet: "direct", as its input (the method), or by a "controlnet" or
            "t2i_adapter" branch beside a noise map (the ablation's baselines, trained in full).
        checkpointing: recompute UNet and VAE blocks during backward: less memory, about a third more time.
        unet_targets: module name endings that get a LoRA; None takes the method's.
        vae_targets: likewise for the VAE.
        skip_lora: also put a LoRA on the skip convolutions, as released files have it.
        prompt_gates: K of the codes by which the prompt gates the ranks of the autoencoder's LoRA, for one direction
            that does many edits; 0 is the method, whose autoencoder does not read the prompt.
        frozen_dtype: dtype of the base's frozen weights, "float32" or "bfloat16"; an adapter records it, since it
            was trained on weights rounded that way.
        compile_blocks: train with `torch.compile` of the repeated blocks, on CUDA; not measured there yet.
        init: start from an adapter, a checkpoint of ours or a released .pkl, with its LoRA targets and scales.

    Raises:
        ValueError: unknown direction, range or dtype, or `init` was trained at another rank or in other directions.
        FileNotFoundError: base or `init` is not there.
    """

    settings: OneStepSettings

    def __init__(
        self,
        base: str = "pocket",
        random_init: bool = False,
        directions: Sequence[Direction] = ("a2b", "b2a"),
        rank_unet: int = 128,
        rank_vae: int = 4,
        alpha_unet: float | None = None,
        alpha_vae: float = 8,
        skips: bool = True,
        skip_init: SkipInit = 1e-5,
        input_range: Range = "[-1, 1]",
        conditioning: ConditioningName = "direct",
        checkpointing: bool = False,
        unet_targets: Sequence[str] | None = None,
        vae_targets: Sequence[str] | None = None,
        skip_lora: bool = False,
        prompt_gates: int = 0,
        frozen_dtype: FrozenDtype = "float32",
        compile_blocks: bool = False,
        init: str | None = None,
    ) -> None:
        super().__init__()
        adapter = read_adapter(init) if init else None
        if adapter is not None:
            saved = _settings_to_start_from(
                adapter,
                {
                    "rank_unet": rank_unet,
                    "rank_vae": rank_vae,
                    "directions": tuple(directions),
                    "skips": skips,
                    "conditioning": conditioning,
                    "prompt_gates": prompt_gates,
                },
            )
            alpha_unet, alpha_vae = saved.alpha_unet, saved.alpha_vae
            unet_targets, vae_targets = saved.unet_targets, saved.vae_targets
            skip_lora, input_range = saved.skip_lora, saved.input_range
        self.settings = settings = OneStepSettings(
            directions=tuple(directions),
            rank_unet=rank_unet,
            rank_vae=rank_vae,
            alpha_unet=rank_unet if alpha_unet is None else alpha_unet,
            alpha_vae=alpha_vae,
            skips=skips,
            skip_init=skip_init,
            input_range=input_range,
            conditioning=conditioning,
            unet_targets=tuple(unet_targets or UNET_TARGETS),
            vae_targets=tuple(vae_targets or VAE_TARGETS),
            skip_lora=skip_lora,
            prompt_gates=prompt_gates,
            frozen_dtype=frozen_dtype,
        )
        loaded = load_base(base, random_init)
        self.base_name = loaded.name
        self.base_description = loaded.description
        self.base_random_init = loaded.random_init
        self.base_fingerprint = loaded.fingerprint
        self.encode_prompts = PromptEncoder(loaded)
        self.input_range = input_range
        self._alpha_bar, self._timestep = loaded.alpha_bar, loaded.timestep
        self._prediction_type = loaded.prediction_type
        self.conditions = loaded.conditions

        self.branch = build_branch(conditioning, loaded, checkpointing)
        self.unet = inject_lora(loaded.unet, settings.unet_targets, rank_unet, settings.alpha_unet)
        self.unet.add_module("conv_in", TrainedConv(self.unet.conv_in))
        if checkpointing:
            self.unet.enable_gradient_checkpointing(gradient_checkpointing_func=checkpoint)
        self.autoencoders = nn.ModuleDict()
        for direction in directions:
            autoencoder = SkipAutoencoder(share_parameters(loaded.vae), skips, skip_init, checkpointing)
            # With a branch the latent is not read: a LoRA on layers that only produce it would never train.
            unread = autoencoder.latent_only if self.branch else ()
            inject_lora(autoencoder.vae, settings.vae_targets, rank_vae, alpha_vae, unread, prompt_gates)
            if skip_lora and skips:
                inject_lora(
                    autoencoder.skip_convs,
                    [str(k) for k in range(len(autoencoder.skip_convs))],
                    rank_vae,
                    alpha_vae,
                    code_channels=prompt_gates,
                )
            # Full float32 masters, made trainable after the last LoRA: injecting freezes everything else.
            autoencoder.skip_convs.requires_grad_(True)
            self.autoencoders[direction] = autoencoder
        width = loaded.unet.config["cross_attention_dim"]
        self.prompt_code = PromptCode(width, prompt_gates) if prompt_gates else None
        if frozen_dtype == "bfloat16":
            # Last: peft gives a LoRA the dtype of its layer.
            store_in_bfloat16(self, keep=self.conv_in.pretrained)
        if compile_blocks:
            self.compiled_blocks = compile_repeated_blocks(self)
        self.prompts: dict[str, str] = {}
        self.trained_names = trainable_names(self)
        self.eval()
        if adapter is not None:
            self.load_adapter(adapter)

    def train(self, mode: bool = True) -> "OneStepGenerator":
        """Stay in evaluation mode: the frozen base has no layer that should behave differently in training."""
        super().train(False)
        return self

    def adapter_tensors(self, adapter: Adapter) -> dict[str, Tensor]:
        """Released unpaired files hold `conv_in` as a difference to the pretrained one."""
        tensors = dict(adapter.tensors)
        if adapter.conv_in_delta is not None:
            pretrained = self.conv_in.pretrained
            weight = pretrained.weight.detach().float()
            tensors["unet.conv_in.trained.weight"] = weight + adapter.conv_in_delta.to(weight.device)
            tensors["unet.conv_in.trained.bias"] = pretrained.get_parameter("bias").detach().float()
        return tensors

    @property
    def conv_in(self) -> TrainedConv:
        """The UNet's first convolution."""
        conv_in = self.unet.get_submodule("conv_in")
        assert isinstance(conv_in, TrainedConv)
        return conv_in

    def autoencoder(self, direction: str) -> SkipAutoencoder:
        """The autoencoder of a direction."""
        autoencoder = self.autoencoders[direction]
        assert isinstance(autoencoder, SkipAutoencoder)
        return autoencoder

    @property
    def directions(self) -> list[str]:
        """The directions that this generator translates in."""
        return list(self.autoencoders)

    @property
    def factor(self) -> int:
        """Image pixels per latent pixel; sides are padded to its multiples."""
        return self.autoencoder(self.directions[0]).factor

    @property
    def reads_noise(self) -> bool:
        """Whether the UNet reads a noise map and the image enters through a branch."""
        return self.branch is not None

    @property
    def latent_channels(self) -> int:
        """Channels of latent and noise map."""
        return self.unet.config["in_channels"]

    def translate_together(
        self,
        images: Mapping[str, Tensor],
        embeddings: Mapping[str, Tensor],
        strength: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Translate in several directions with a single pass of the UNet.

        Args:
            images: by direction, ``(B_d, 3, H, W)`` in [-1, 1], all of one height and width.
            embeddings: by direction, ``(B_d, L, D)`` or ``(1, L, D)``.
            strength: ``(sum of B_d,)`` in the order of ``images``; see `forward`.
            noise: see `forward`; a branch reads it whatever the strength, and the map of seed 0 where it is None.

        Returns:
            By direction, ``(B_d, 3, H, W)`` float32 in [-1, 1].

        Raises:
            ValueError: an unknown direction, or strength without noise, on a merged generator, or beside a branch.
        """
        self._check(images, strength, noise)
        counts = [image.shape[0] for image in images.values()]
        strengths = _split(strength, counts)
        height, width = next(iter(images.values())).shape[-2:]
        fed = {direction: self._feed(image) for direction, image in images.items()}
        context = torch.cat([embeddings[d].expand(n, -1, -1) for d, n in zip(images, counts, strict=True)])
        kwargs = self.conditions.unet_inputs(context, *next(iter(fed.values())).shape[-2:])
        # Gates come with a single direction.
        code = None if self.prompt_code is None else self.prompt_code(*embeddings.values())
        skips = {}
        if self.branch is None:
            latents = []
            for k, direction in enumerate(images):
                with modulated(strengths[k], code):
                    latent, skips[direction] = self.autoencoder(direction).encode(fed[direction])
                latents.append(latent)
            latent = torch.cat(latents)
            if strength is not None and noise is not None:
                latent = blend(strength, latent, noise.to(latent).expand_as(latent))
        else:
            with modulated(code=code):
                skips = {direction: self.autoencoder(direction).skips(image) for direction, image in fed.items()}
            if noise is None:
                noise = noise_map(0, self.noise_shape(next(iter(images.values()))))
            latent = noise.to(context).expand(sum(counts), -1, -1, -1)
            kwargs |= self.branch(torch.cat(list(fed.values())), latent, self._timestep, kwargs)
        with modulated(strength):
            prediction = self.unet(latent, self._timestep, **kwargs).sample
        x0 = predict_x0(latent, prediction, self._alpha_bar, self._prediction_type)
        outputs = {}
        for k, (direction, part) in enumerate(zip(images, x0.split(counts), strict=True)):
            with modulated(strengths[k], code):
                image = self.autoencoder(direction).decode(part, skips[direction], strengths[k])
            outputs[direction] = image[..., :height, :width]
        return outputs

    def set_training_prompts(self, prompts: list[str]) -> None:
        """See `ImageTranslator`; standardises the codes of prompts."""
        if self.prompt_code is None:
            return
        some = prompts[:: -(-len(prompts) // TYPICAL)]
        self.prompt_code.standardise(self.encode_prompts(some, self.prompt_code.mean.device))
        if not self.prompt_code.scale.any():
            log.warning(
                f"prompt_gates={self.settings.prompt_gates} has no effect: all training images have the same prompt."
            )

    def skip_parameters(self) -> list[nn.Parameter]:
        """Trained parameters of the skip convolutions and their LoRA, direction after direction."""
        convs = (self.autoencoder(direction).skip_convs for direction in self.directions)
        return [p for conv in convs for p in conv.parameters() if p.requires_grad]

    def noise_shape(self, image: Tensor) -> tuple[int, ...]:
        """Shape of the noise map of one image: ``(1, C, padded H / factor, padded W / factor)``."""
        height, width = image.shape[-2:]
        return 1, self.latent_channels, -(-height // self.factor), -(-width // self.factor)

    def merge(self, dtype: torch.dtype = torch.float32) -> "OneStepGenerator":
        """Fuse every LoRA into the weights for faster inference, but for those that the prompt gates; in place.

        Strength below 1 is refused afterwards.

        Args:
            dtype: see `merge_lora`.
        """
        merge_lora(self, dtype)
        self.merged = True
        return self

    def _check(self, images: Mapping[str, Tensor], strength: Tensor | None, noise: Tensor | None) -> None:
        self.check_direction(images)
        if strength is not None and noise is None:
            raise ValueError("strength needs a noise map to blend with (arXiv 2403.12036, Sec. 3.4).")
        if strength is not None and self.branch is not None:
            raise ValueError(
                f"strength blends the image into the noise at the UNet's input; with conditioning="
                f"{self.settings.conditioning} the UNet reads noise alone. Use conditioning=direct."
            )
        if strength is not None and self.merged:
            raise ValueError("This generator's LoRA is merged, so strength can no longer scale it: load it unmerged.")

    def _feed(self, image: Tensor) -> Tensor:
        """[-1, 1] pixels of any size => the VAE's range, padded to its factor."""
        height, width = image.shape[-2:]
        pad_h, pad_w = -height % self.factor, -width % self.factor
        if pad_h or pad_w:
            # Reflection needs a side longer than the pad.
            mode = "reflect" if pad_h < height and pad_w < width else "replicate"
            image = F.pad(image, (0, pad_w, 0, pad_h), mode=mode)
        return image if self.input_range == "[-1, 1]" else (image + 1) / 2


def _settings_to_start_from(adapter: Adapter, given: Mapping[str, object]) -> OneStepSettings:
    """Settings of an adapter that training starts from.

    Raises:
        ValueError: the adapter is a ResNet's, or was trained with other settings than those given.
    """
    saved = adapter.card.settings
    if not isinstance(saved, OneStepSettings):
        raise ValueError(
            f"init={adapter.path} is a plain ResNet and cannot start another base. Leave init out, or "
            "train the resnet base."
        )
    for name, value in given.items():
        if getattr(saved, name) != value:
            was, asked = (list(v) if isinstance(v, tuple) else v for v in (getattr(saved, name), value))
            raise ValueError(
                f"init={adapter.path} was trained with {name}={was}, the experiment asks for {asked}. "
                f"Set --model.init_args.generator.init_args.{name}={was}, or leave init out."
            )
    return saved


def _split(values: Tensor | None, counts: list[int]) -> Sequence[Tensor | None]:
    return [None] * len(counts) if values is None else values.split(counts)
