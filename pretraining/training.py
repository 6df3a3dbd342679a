"""The trainings of `make pocket`: autoencoder, teacher, distillation; each leaves its result in the work folder."""

import json
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from datamodules import scenes
from networks.one_step.bases import fingerprint
from networks.one_step.diffusion import noise_map
from pretraining.batches import LatentBatches, PictureBatches
from pretraining.captioned_scenes import CaptionedScenes
from pretraining.sampling import draw_many_steps, encode_tokens
from pretraining.stages import AutoencoderStage, DistillationStage, TeacherStage
from pretraining.stages.stage import Decoder
from pretraining.vocabulary import read_tokenizer, text_config, write_tokenizer
from pretraining.workshop import Workshop, fit, flat, load_weights, save_weights, stage
from storage import atomic_write


def train_autoencoder(shop: Workshop) -> None:
    """Stage 1; leaves vae.safetensors, the latents of all training pictures, and their captions."""
    inputs = {**flat(OmegaConf.to_container(shop.settings.data), "data."), "renderer": scenes.RENDERER_VERSION}  # type: ignore[arg-type]
    with stage(shop, "autoencoder", inputs) as results:
        if results is None:
            return
        options: Any = OmegaConf.to_container(shop.settings.autoencoder)
        pictures = shop.pictures()
        batches = PictureBatches(
            pictures,
            **{key: options.pop(key) for key in ("batch_size", "crop", "crop_share", "contour_share")},
            steps=options["steps"],
            seed=shop.settings.seed,
        )
        vae: Any = AutoencoderKL.from_config(shop.config("vae"))
        results |= fit(shop, "autoencoder", AutoencoderStage(vae, **options, seed=shop.settings.seed), batches)
        folder = shop.work / "autoencoder"
        latents = encode(vae, pictures, shop.device)
        results["scaling_factor"] = float(1 / latents.std())
        results["fingerprint"] = fingerprint(vae)
        np.save(folder / "latents.npy", (latents * results["scaling_factor"]).astype(np.float16))
        (folder / "captions.json").write_text(json.dumps(pictures.captions))
        save_weights(folder / "vae.safetensors", vae)


@torch.no_grad()
def encode(vae: Any, pictures: CaptionedScenes, device: torch.device, batch: int = 50) -> Any:
    """Posterior means of all pictures, ``(N, 4, h, w)`` float32, not scaled."""
    vae = vae.to(device).eval()
    means = []
    for start in tqdm(range(0, len(pictures), batch), desc="encode"):
        rows = range(start, min(start + batch, len(pictures)))
        images = torch.stack([pictures.image(k) for k in rows]).to(device)
        means.append(vae.encode(images).latent_dist.mean.cpu().numpy())
    return np.concatenate(means)


def train_teacher(shop: Workshop) -> None:
    """Stage 2; leaves the moving averages unet.safetensors and text_encoder.safetensors, and the tokenizer."""
    words = [*(word for prompt in scenes.PROMPTS.values() for word in prompt.split()), *scenes.WORDS]
    inputs = {"latents": shop.finished("autoencoder")["fingerprint"], "vocabulary": " ".join(dict.fromkeys(words))}
    with stage(shop, "teacher", inputs) as results:
        if results is None:
            return
        folder = shop.work / "teacher"
        write_tokenizer(folder / "tokenizer", words)
        options: Any = OmegaConf.to_container(shop.settings.teacher)
        latents, captions, tokenizer = load_latents(shop)
        batches = LatentBatches(
            latents, tokenise(tokenizer, captions), options.pop("batch_size"), options["steps"], shop.settings.seed
        )
        module = TeacherStage(
            UNet2DConditionModel.from_config(shop.config("unet")),
            CLIPTextModel(CLIPTextConfig(**text_config(shop.config("text_encoder"), tokenizer))),
            shop.config("scheduler"),
            tokenise(tokenizer, [""]),
            decoder(load_vae(shop).to(shop.device)),
            tokenise(tokenizer, preview_captions(captions)),
            **options,
            seed=shop.settings.seed,
        )
        results |= fit(shop, "teacher", module, batches)
        average: Any = module.average.module
        save_weights(folder / "unet.safetensors", average["unet"])
        save_weights(folder / "text_encoder.safetensors", average["text_encoder"])
        results["fingerprint"] = fingerprint(average["unet"], average["text_encoder"])


def preview_captions(captions: list[str]) -> list[str]:
    """What TensorBoard shows: the fixed prompts twice, then six free captions."""
    fixed = list(scenes.PROMPTS.values())
    free = [caption for caption in captions if caption not in fixed]
    return [*fixed, *fixed, *free[:: max(1, len(free) // 6)][:6]]


def distil(shop: Workshop) -> None:
    """Stage 3; leaves the moving average of the student, unet.safetensors."""
    inputs = {"teacher": shop.finished("teacher")["fingerprint"]}
    with stage(shop, "distillation", inputs) as results:
        if results is None:
            return
        options: Any = OmegaConf.to_container(shop.settings.distillation)
        latents, captions, tokenizer = load_latents(shop)
        teacher, text_encoder = load_teacher(shop)
        drawing = [options.pop(key) for key in ("pairs", "pairs_steps", "guidance")]
        pairs = draw_pairs(shop, teacher, text_encoder, captions, tokenizer, *drawing)
        batches = LatentBatches(
            latents,
            tokenise(tokenizer, captions),
            options.pop("batch_size"),
            options["steps"],
            shop.settings.seed,
            pairs,
            options.pop("pairs_batch"),
        )
        module = DistillationStage(
            teacher,
            text_encoder,
            shop.config("scheduler"),
            decoder(load_vae(shop).to(shop.device)),
            tokenise(tokenizer, preview_captions(captions)),
            **options,
            seed=shop.settings.seed,
        )
        results |= fit(shop, "distillation", module, batches)
        student: Any = module.average.module
        save_weights(shop.work / "distillation" / "unet.safetensors", student)
        results["fingerprint"] = fingerprint(student)


def draw_pairs(
    shop: Workshop,
    teacher: Any,
    text_encoder: Any,
    captions: list[str],
    tokenizer: CLIPTokenizer,
    count: int,
    steps: int,
    guidance: float,
    chunk: int = 100,
) -> dict[str, Tensor]:
    """The teacher's draws for training captions: "noise", "target" (both float16) and "tokens", a row each.

    Every chunk is a file, so an interruption costs one.
    """
    folder = shop.work / "distillation" / "pairs"
    folder.mkdir(parents=True, exist_ok=True)
    config, seed = teacher.config, shop.settings.seed
    chosen = np.random.default_rng([seed, 4]).choice(len(captions), count, replace=count > len(captions))
    tokens = tokenise(tokenizer, [captions[k] for k in chosen])
    teacher, text_encoder = teacher.to(shop.device), text_encoder.to(shop.device)
    shape, files = (config.in_channels, config.sample_size, config.sample_size), []
    with torch.no_grad():
        empty = encode_tokens(text_encoder, tokenise(tokenizer, [""]).to(shop.device))
        for start in tqdm(range(0, count, chunk), desc="pairs", unit_scale=chunk):
            files.append(folder / f"{start:06d}.safetensors")
            if files[-1].is_file():
                continue
            some = tokens[start : start + chunk]
            # rounded first: the teacher must see the noise that is stored
            noise = torch.stack([noise_map(seed + start + k, shape) for k in range(len(some))]).half()
            context = encode_tokens(text_encoder, some.to(shop.device))
            start_noise = noise.float().to(shop.device)
            target = draw_many_steps(teacher, context, empty, start_noise, shop.config("scheduler"), steps, guidance)
            with atomic_write(files[-1]) as part:
                save_file({"noise": noise, "target": target.half().cpu().contiguous(), "tokens": some.clone()}, part)
    found = [load_file(path) for path in files]
    return {name: torch.cat([chunk[name] for chunk in found]) for name in ("noise", "target", "tokens")}


def load_teacher(shop: Workshop) -> tuple[Any, Any]:
    """The finished teacher's UNet and text encoder, frozen."""
    shop.finished("teacher")
    folder = shop.work / "teacher"
    config = text_config(shop.config("text_encoder"), read_tokenizer(folder / "tokenizer"))
    unet = load_weights(folder / "unet.safetensors", UNet2DConditionModel.from_config(shop.config("unet")))
    return unet, load_weights(folder / "text_encoder.safetensors", CLIPTextModel(CLIPTextConfig(**config)))


def load_latents(shop: Workshop) -> tuple[Any, list[str], CLIPTokenizer]:
    """Scaled latents ``(N, 4, h, w)`` float16 of the training pictures, their captions, and the teacher's tokenizer."""
    folder = shop.work / "autoencoder"
    captions = json.loads((folder / "captions.json").read_text())
    return np.load(folder / "latents.npy"), captions, read_tokenizer(shop.work / "teacher" / "tokenizer")


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Captions => ``(N, L)`` int64, padded and cut as `networks.one_step.prompts` does it."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def decoder(vae: Any) -> Decoder:
    """Scaled latents => pictures in [-1, 1]."""

    @torch.no_grad()
    def decode(latent: Tensor) -> Tensor:
        scaled = latent.to(vae.device) / vae.config.scaling_factor
        return torch.cat([vae.decode(part).sample for part in scaled.split(16)]).clamp(-1, 1)

    return decode


def load_vae(shop: Workshop) -> Any:
    """The finished autoencoder, frozen, with its scaling factor in its config."""
    vae: Any = AutoencoderKL.from_config(shop.config("vae"))
    vae.register_to_config(scaling_factor=shop.finished("autoencoder")["scaling_factor"])
    return load_weights(shop.work / "autoencoder" / "vae.safetensors", vae)
