"""How good the pocket base is: what `make pocket` measures on its exported files, against renders it never saw."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from datamodules import scenes
from images.ranges import from_uint8, to_uint8
from metrics.fid import frechet_distance
from metrics.kid import kernel_distance
from metrics.psnr import psnr
from networks.features import FeatureNetwork, load_features
from networks.one_step.bases import load_base
from networks.one_step.diffusion import noise_map
from networks.one_step.prompts import PromptEncoder
from pretraining.captioned_scenes import UNSEEN, worlds
from pretraining.sampling import draw_many_steps, draw_one_step, encode_tokens
from pretraining.training import decoder, load_teacher, tokenise
from pretraining.vocabulary import read_tokenizer
from pretraining.workshop import Workshop

BATCH = 25


class Judge:
    """The metrics' network, EfficientNet-Lite0, which no stage was trained with.

    Args:
        device: where it runs.
        features: another network, for tests.
    """

    def __init__(self, device: torch.device, features: FeatureNetwork | None = None) -> None:
        self.device = device
        self.network = (features or load_features("lite0")).to(device)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """Embeddings `(N, D)` of images `(N, 3, H, W)` in [-1, 1], as 8-bit pictures."""
        parts = [
            self.network.embedding(from_uint8(to_uint8(part)).to(self.device)).cpu() for part in images.split(BATCH)
        ]
        return torch.cat(parts)

    @torch.no_grad()
    def distances(self, images: Tensor, others: Tensor) -> Tensor:
        """LPIPS formula on this network, `(N,)`, of pairs of images `(N, 3, H, W)` in [-1, 1]."""
        pairs = zip(images.split(BATCH), others.split(BATCH), strict=True)
        found = [[self.network.stages(from_uint8(to_uint8(x)).to(self.device)) for x in pair] for pair in pairs]
        return torch.cat([self.network.distance(*stages).cpu() for stages in found])

    def spread(self, images: Tensor) -> float:
        """Mean distance of all pairs of images `(N, 3, H, W)`."""
        first, second = torch.triu_indices(len(images), len(images), offset=1)
        return float(self.distances(images[first], images[second]).mean())


def measure(shop: Workshop, judge: Judge) -> tuple[dict[str, Any], Tensor]:
    """Everything on the card, and one-step samples of the fixed prompts, `(rows * 6, 3, H, W)`, row by row.

    Two sets of unseen renders are drawn: samples, and the first set in their place (the floor), are held against the
    second one.  Samples use the first set's captions, so both sides ask for the same things.
    """
    options = shop.settings.quality
    count, size = options.count, shop.settings.data.size
    renders = [shop.pictures(UNSEEN + k * count, count) for k in range(2)]
    floor, real = (torch.stack([r.image(k) for k in range(len(r))]) for r in renders)
    base = load_base(str(shop.out))
    prompts, vae = PromptEncoder(base), base.vae.to(shop.device)  # type: ignore[attr-defined]
    unet, decode = base.unet.to(shop.device), decoder(vae)  # type: ignore[attr-defined]
    side = size // 2 ** (len(vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def one_step(captions: list[str], seed: int) -> Tensor:
        images = []
        for start in tqdm(range(0, len(captions), BATCH), desc="one step"):
            some = captions[start : start + BATCH]
            noise = noises(len(some), seed + start, vae.config.latent_channels, side).to(shop.device)
            context = prompts(some, shop.device)
            latent = draw_one_step(unet, context, noise, base.alpha_bar, base.timestep, base.prediction_type)
            images.append(decode(latent).cpu())
        return torch.cat(images)

    @torch.no_grad()
    def hand_on(images: Tensor, captions: list[str] | None) -> Tensor:
        """Through the autoencoder, and with captions through one step of the UNet as well."""
        outputs = []
        for start in range(0, len(images), BATCH):
            latent = vae.encode(images[start : start + BATCH].to(shop.device)).latent_dist.mean
            latent = latent * vae.config.scaling_factor
            if captions is not None:
                context = prompts(captions[start : start + BATCH], shop.device)
                latent = draw_one_step(unet, context, latent, base.alpha_bar, base.timestep, base.prediction_type)
            outputs.append(decode(latent).cpu())
        return torch.cat(outputs)

    captions, world_of = renders[0].captions, torch.tensor(renders[0].world_of)
    samples = one_step(captions, seed=0)
    teacher = many_steps(shop, captions, decode, side)
    rows = {"one_step": judge.embed(samples), "teacher": judge.embed(teacher), "real": judge.embed(floor)}
    reference = judge.embed(real)
    fixed = list(scenes.PROMPTS.values())
    is_fixed = torch.tensor([caption in fixed for caption in captions])
    alike = one_step([prompt for prompt in fixed for _ in range(options.alike)], seed=1_000_000)
    own = [floor[world_of == world][: options.alike] for world in range(len(worlds()))]
    spreads = [judge.spread(x) / judge.spread(y) for x, y in zip(alike.split(options.alike), own, strict=True)]
    report = {
        "n": len(captions),
        "features": judge.network.name,
        "autoencoder": closeness(hand_on(floor, None), floor, judge),
        "identity": closeness(hand_on(floor, captions), floor, judge),
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
    """One map per seed from `seed` on, `(count, channels, side, side)`."""
    return torch.stack([noise_map(seed + k, (channels, side, side)) for k in range(count)])


@torch.no_grad()
def many_steps(shop: Workshop, captions: list[str], decode: Any, side: int) -> Tensor:
    """The teacher's pictures of these captions, from the noise that the one-step samples start from."""
    unet, text_encoder = (part.to(shop.device) for part in load_teacher(shop))
    tokenizer = read_tokenizer(shop.work / "teacher" / "tokenizer")
    empty = encode_tokens(text_encoder, tokenise(tokenizer, [""]).to(shop.device))
    options, images = shop.settings.quality, []
    for start in tqdm(range(0, len(captions), BATCH), desc=f"teacher, {options.teacher_steps} steps"):
        some = captions[start : start + BATCH]
        context = encode_tokens(text_encoder, tokenise(tokenizer, some).to(shop.device))
        noise = noises(len(some), start, unet.config.in_channels, side).to(shop.device)
        latent = draw_many_steps(
            unet, context, empty, noise, shop.config("scheduler"), options.teacher_steps, options.guidance
        )
        images.append(decode(latent).cpu())
    return torch.cat(images)


def closeness(outputs: Tensor, images: Tensor, judge: Judge) -> dict[str, float]:
    """PSNR (dB) and perceptual distance of outputs and the images `(N, 3, H, W)` that they should be."""
    quality = psnr(to_uint8(outputs), to_uint8(images))
    return {"psnr": float(quality.mean()), "lpips": float(judge.distances(outputs, images).mean())}


def probe(train: Tensor, train_worlds: Tensor, test: Tensor, test_worlds: Tensor) -> dict[str, float]:
    """Accuracy by task of a linear probe that was trained on renders and reads a picture's domain.

    Args:
        train: embeddings `(N, D)` of renders.
        train_worlds: their places in `worlds()`, `(N,)`.
        test: embeddings `(M, D)` of other pictures.
        test_worlds: what they should show, `(M,)`.

    Returns:
        By task, in [0, 1]; 0.5 is guessing.
    """
    accuracy = {}
    for k, task in enumerate(scenes.TASKS):
        fit, judged = train_worlds // 2 == k, test_worlds // 2 == k
        is_b = logistic_regression(train[fit], train_worlds[fit] % 2, test[judged])
        accuracy[task] = float((is_b == test_worlds[judged] % 2).float().mean())
    return accuracy


def logistic_regression(train: Tensor, labels: Tensor, test: Tensor, decay: float = 1e-2) -> Tensor:
    """Labels 0 or 1 for `test` `(M, D)`, from a regularised logistic regression on `train` `(N, D)`, standardised."""
    mean, std = train.mean(dim=0), train.std(dim=0) + 1e-6
    inputs, targets = ((train - mean) / std).double(), labels.double()
    weight = torch.zeros(inputs.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.binary_cross_entropy_with_logits(inputs @ weight[1:] + weight[0], targets)
        loss = loss + decay * weight[1:].square().sum()
        loss.backward()
        return loss

    solver.step(closure)  # type: ignore[arg-type]
    return ((((test - mean) / std).double() @ weight[1:] + weight[0]) > 0).long().detach()
