"""Measure the quality of the pocket base on its exported files, against renders that no stage saw."""

from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from tqdm import tqdm

from datamodules import scenes
from metrics.fid import frechet_distance
from metrics.kid import kernel_distance
from metrics.pixels import from_uint8, to_uint8
from metrics.probe import classify
from metrics.psnr import psnr
from networks.features import load_features
from networks.one_step.bases import load_base
from networks.one_step.diffusion import noise_map
from networks.one_step.prompts import PromptEncoder
from pretraining.captioned_scenes import UNSEEN, worlds
from pretraining.sampling import draw_many_steps, draw_one_step, encode_tokens
from pretraining.stages.stage import Decoder
from pretraining.training import decoder, load_teacher, tokenise
from pretraining.vocabulary import read_tokenizer
from pretraining.workspace import Workspace, to_device

BATCH = 25  # images


class Features:
    """Embeddings and perceptual distances by EfficientNet-Lite0, which no stage was trained with.

    Args:
        device: device of the network.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.network = load_features("lite0").to(device)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Embeddings `(N, D)` of images `(N, 3, H, W)` in [-1, 1], rounded to 8 bits."""
        parts = [
            self.network.embedding(from_uint8(to_uint8(part)).to(self.device)).cpu() for part in images.split(BATCH)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def distances(self, images: Tensor, others: Tensor) -> Tensor:
        """LPIPS formula on this network, `(N,)`, of two batches of images `(N, 3, H, W)` in [-1, 1]."""
        pairs = zip(images.split(BATCH), others.split(BATCH), strict=True)
        found = [[self.network.stages(from_uint8(to_uint8(x)).to(self.device)) for x in pair] for pair in pairs]
        return torch.cat([self.network.distance(*stages).cpu() for stages in found])

    def spread(self, images: Tensor) -> float:
        """Mean distance over all pairs of images `(N, 3, H, W)`."""
        first, second = torch.triu_indices(len(images), len(images), offset=1)
        return float(self.distances(images[first], images[second]).mean())


def measure(workspace: Workspace, features: Features) -> tuple[dict[str, Any], Tensor]:
    """Measure everything that the model card shows.

    There are two sets of unseen renders.  Samples for the captions of the first set are compared with the second set;
    so is the first set itself, which gives the lowest distance to expect.

    Returns:
        The content of quality.json, and one-step samples of the fixed prompts, `(rows * 6, 3, H, W)`, row by row.
    """
    options = workspace.settings.quality
    count, size = options.count, workspace.settings.data.size
    renders = [workspace.images(UNSEEN + k * count, count) for k in range(2)]
    floor, real = (torch.stack([r.image(k) for k in range(len(r))]) for r in renders)
    base = load_base(str(workspace.out))
    prompts, vae, unet = PromptEncoder(base), base.vae, base.unet
    assert isinstance(vae, AutoencoderKL) and isinstance(unet, UNet2DConditionModel)
    decode = decoder(vae, workspace.device)
    to_device(unet, workspace.device)
    side = size // 2 ** (len(vae.config["block_out_channels"]) - 1)

    @torch.no_grad()
    def one_step(captions: list[str], seed: int) -> Tensor:
        images = []
        for start in tqdm(range(0, len(captions), BATCH), desc="one step"):
            some = captions[start : start + BATCH]
            noise = noises(len(some), seed + start, vae.config["latent_channels"], side).to(workspace.device)
            context = prompts(some, workspace.device)
            latent = draw_one_step(unet, context, noise, base.alpha_bar, base.timestep, base.prediction_type)
            images.append(decode(latent).cpu())
        return torch.cat(images)

    @torch.no_grad()
    def through(images: Tensor, captions: list[str] | None) -> Tensor:
        """Images after the autoencoder and, with captions, after one step of the UNet on their latents."""
        outputs = []
        for start in range(0, len(images), BATCH):
            latent = vae.encode(images[start : start + BATCH].to(workspace.device)).latent_dist.mean
            latent = latent * vae.config["scaling_factor"]
            if captions is not None:
                context = prompts(captions[start : start + BATCH], workspace.device)
                latent = draw_one_step(unet, context, latent, base.alpha_bar, base.timestep, base.prediction_type)
            outputs.append(decode(latent).cpu())
        return torch.cat(outputs)

    captions, world_of = renders[0].captions, torch.tensor(renders[0].world_of)
    samples = one_step(captions, seed=0)
    teacher = many_steps(workspace, captions, decode, side)
    rows = {"one_step": features.embed(samples), "teacher": features.embed(teacher), "real": features.embed(floor)}
    reference = features.embed(real)
    fixed = list(scenes.PROMPTS.values())
    is_fixed = torch.tensor([caption in fixed for caption in captions])
    alike = one_step([prompt for prompt in fixed for _ in range(options.alike)], seed=1_000_000)
    own = [floor[world_of == world][: options.alike] for world in range(len(worlds()))]
    spreads = [features.spread(x) / features.spread(y) for x, y in zip(alike.split(options.alike), own, strict=True)]
    report = {
        "n": len(captions),
        "features": features.network.name,
        "autoencoder": closeness(through(floor, None), floor, features),
        "identity": closeness(through(floor, captions), floor, features),
        **{
            name: {
                "fid": float(frechet_distance(reference, found)),
                "kid": float(kernel_distance(reference, found)[0]),
                "probe": probe(reference, torch.tensor(renders[1].world_of), found, world_of),
                "probe_fixed_prompts": probe(
                    reference, torch.tensor(renders[1].world_of), found[is_fixed], world_of[is_fixed]
                ),
            }
            for name, found in rows.items()
        },
        "teacher_steps": options.teacher_steps,
        "diversity": dict(zip(fixed, spreads, strict=True)),
        "diversity_mean": float(np.mean(spreads)),
    }
    return report, alike.unflatten(0, (len(fixed), options.alike)).transpose(0, 1)[:4].flatten(0, 1)


def noises(count: int, seed: int, channels: int, side: int) -> Tensor:
    """Noise maps of the seeds from `seed` on, `(count, channels, side, side)`."""
    return torch.stack([noise_map(seed + k, (channels, side, side)) for k in range(count)])


@torch.no_grad()
def many_steps(workspace: Workspace, captions: list[str], decode: Decoder, side: int) -> Tensor:
    """Samples of the teacher for these captions, from the same noise as the one-step samples."""
    unet, text_encoder = load_teacher(workspace)
    to_device(unet, workspace.device)
    to_device(text_encoder, workspace.device)
    tokenizer = read_tokenizer(workspace.work / "teacher" / "tokenizer")
    empty = encode_tokens(text_encoder, tokenise(tokenizer, [""]).to(workspace.device))
    options, images = workspace.settings.quality, []
    for start in tqdm(range(0, len(captions), BATCH), desc=f"teacher, {options.teacher_steps} steps"):
        some = captions[start : start + BATCH]
        context = encode_tokens(text_encoder, tokenise(tokenizer, some).to(workspace.device))
        noise = noises(len(some), start, unet.config["in_channels"], side).to(workspace.device)
        latent = draw_many_steps(
            unet, context, empty, noise, workspace.config("scheduler"), options.teacher_steps, options.guidance
        )
        images.append(decode(latent).cpu())
    return torch.cat(images)


def closeness(outputs: Tensor, images: Tensor, features: Features) -> dict[str, float]:
    """PSNR (dB) and perceptual distance between outputs and the images `(N, 3, H, W)` that they should equal."""
    quality = psnr(to_uint8(outputs), to_uint8(images))
    return {"psnr": float(quality.mean()), "lpips": float(features.distances(outputs, images).mean())}


def probe(train: Tensor, train_worlds: Tensor, test: Tensor, test_worlds: Tensor) -> dict[str, float]:
    """Accuracy, by task, of a linear probe that is trained on renders to tell the domain of an image.

    Args:
        train: embeddings `(N, D)` of renders.
        train_worlds: their positions in `worlds()`, `(N,)`.
        test: embeddings `(M, D)` of other images.
        test_worlds: positions of the worlds that they should show, `(M,)`.

    Returns:
        Accuracies in [0, 1] by task; 0.5 is chance.
    """
    accuracy = {}
    for k, task in enumerate(scenes.TASKS):
        fitted, tested = train_worlds // 2 == k, test_worlds // 2 == k
        is_b = classify(train[fitted], train_worlds[fitted] % 2, test[tested])
        accuracy[task] = float((is_b == test_worlds[tested] % 2).float().mean())
    return accuracy
