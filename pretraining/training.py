"""The trainings of `make pocket`: autoencoder, teacher, distillation; each writes its results to the work folder."""

import json
from pathlib import Path

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm import tqdm
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from datamodules import scenes
from networks.one_step.bases import fingerprint
from networks.one_step.diffusion import noise_map
from pretraining.batches import ImageBatches, LatentBatches, PairBatches
from pretraining.captioned_scenes import CaptionedScenes
from pretraining.sampling import draw_many_steps, encode_tokens
from pretraining.settings import flat
from pretraining.stages import AutoencoderStage, DistillationStage, TeacherStage
from pretraining.stages.stage import Decoder
from pretraining.vocabulary import read_tokenizer, text_config, write_tokenizer
from pretraining.workspace import Workspace, fit, load_weights, run_stage, save_tensors, to_device

PAIR_CHUNK = 100  # pairs per file: what an interruption can cost


def train_autoencoder(workspace: Workspace) -> None:
    """Stage 1, the autoencoder; writes vae.safetensors, the latents of all training images, and their captions."""
    inputs = {**flat(workspace.section("data"), "data."), "renderer": scenes.RENDERER_VERSION}
    with run_stage(workspace, "autoencoder", inputs) as results:
        if results is None:
            return
        options, others = workspace.stage_options("autoencoder")
        images = workspace.images()
        drawing = {key: others.pop(key) for key in ("batch_size", "crop", "crop_share", "contour_share")}
        batches = ImageBatches(images, **drawing, steps=options.steps, seed=options.seed)
        vae = build_vae(workspace)
        results |= fit(workspace, "autoencoder", AutoencoderStage(options, vae, **others), batches)
        folder = workspace.work / "autoencoder"
        latents = encode(vae, images, workspace.device)
        results["scaling_factor"] = float(1 / latents.std())
        results["fingerprint"] = fingerprint(vae)
        np.save(folder / "latents.npy", (latents * results["scaling_factor"]).astype(np.float16))
        (folder / "captions.json").write_text(json.dumps(images.captions))
        save_tensors(folder / "vae.safetensors", vae.state_dict())


@torch.no_grad()
def encode(vae: AutoencoderKL, images: CaptionedScenes, device: torch.device, batch: int = 50) -> NDArray[np.float32]:
    """Posterior means of all images, ``(N, 4, h, w)``, not scaled."""
    to_device(vae, device).eval()
    means = []
    for start in tqdm(range(0, len(images), batch), desc="encode"):
        rows = range(start, min(start + batch, len(images)))
        inputs = torch.stack([images.image(k) for k in rows]).to(device)
        means.append(vae.encode(inputs).latent_dist.mean.cpu().numpy())
    return np.concatenate(means)


def train_teacher(workspace: Workspace) -> None:
    """Stage 2, the teacher; writes the averages unet.safetensors and text_encoder.safetensors, and the tokenizer."""
    words = [*(word for prompt in scenes.PROMPTS.values() for word in prompt.split()), *scenes.WORDS]
    inputs = {"latents": workspace.finished("autoencoder")["fingerprint"], "vocabulary": " ".join(dict.fromkeys(words))}
    with run_stage(workspace, "teacher", inputs) as results:
        if results is None:
            return
        folder = workspace.work / "teacher"
        write_tokenizer(folder / "tokenizer", words)
        options, others = workspace.stage_options("teacher")
        latents, captions, tokenizer = load_latents(workspace)
        tokens = tokenise(tokenizer, captions)
        batches = LatentBatches(latents, tokens, others.pop("batch_size"), options.steps, options.seed)
        module = TeacherStage(
            options,
            build_unet(workspace),
            CLIPTextModel(CLIPTextConfig(**text_config(workspace.config("text_encoder"), tokenizer))),
            workspace.config("scheduler"),
            tokenise(tokenizer, [""]),
            decoder(load_vae(workspace), workspace.device),
            tokenise(tokenizer, preview_captions(captions)),
            **others,
        )
        results |= fit(workspace, "teacher", module, batches)
        average = module.average.module
        assert isinstance(average, nn.ModuleDict)
        for part in ("unet", "text_encoder"):
            save_tensors(folder / f"{part}.safetensors", average[part].state_dict())
        results["fingerprint"] = fingerprint(average["unet"], average["text_encoder"])


def preview_captions(captions: list[str]) -> list[str]:
    """Captions of the images in TensorBoard: the fixed prompts twice, then six free captions."""
    fixed = list(scenes.PROMPTS.values())
    free = [caption for caption in captions if caption not in fixed]
    return [*fixed, *fixed, *free[:: max(1, len(free) // 6)][:6]]


def distil(workspace: Workspace) -> None:
    """Stage 3, distillation; writes the moving average of the student, unet.safetensors."""
    inputs = {"teacher": workspace.finished("teacher")["fingerprint"]}
    with run_stage(workspace, "distillation", inputs) as results:
        if results is None:
            return
        options, others = workspace.stage_options("distillation")
        latents, captions, tokenizer = load_latents(workspace)
        teacher, text_encoder = load_teacher(workspace)
        count, steps, guidance = (others.pop(key) for key in ("pairs", "pairs_steps", "guidance"))
        pairs = draw_pairs(workspace, teacher, text_encoder, captions, tokenizer, count, steps, guidance)
        tokens = tokenise(tokenizer, captions)
        images = LatentBatches(latents, tokens, others.pop("batch_size"), options.steps, options.seed)
        module = DistillationStage(
            options,
            teacher,
            text_encoder,
            workspace.config("scheduler"),
            decoder(load_vae(workspace), workspace.device),
            tokenise(tokenizer, preview_captions(captions)),
            **{key: value for key, value in others.items() if key != "pairs_batch"},
        )
        results |= fit(workspace, "distillation", module, PairBatches(images, pairs, others["pairs_batch"]))
        student = module.average.module
        save_tensors(workspace.work / "distillation" / "unet.safetensors", student.state_dict())
        results["fingerprint"] = fingerprint(student)


def draw_pairs(
    workspace: Workspace,
    teacher: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    captions: list[str],
    tokenizer: CLIPTokenizer,
    count: int,
    steps: int,
    guidance: float,
) -> dict[str, Tensor]:
    """Samples of the teacher for training captions, cached in files of `PAIR_CHUNK` pairs.

    Args:
        workspace: settings and folders.
        teacher: the teacher's UNet.
        text_encoder: the teacher's text encoder.
        captions: captions of the training images.
        tokenizer: the teacher's tokenizer.
        count: number of pairs.
        steps: steps of the solver.
        guidance: guidance scale.

    Returns:
        "noise" and "target" ``(count, 4, h, w)`` float16, and "tokens" ``(count, L)``.
    """
    config, seed = teacher.config, workspace.settings.seed
    chosen = np.random.default_rng([seed, 4]).choice(len(captions), count, replace=count > len(captions))
    tokens = tokenise(tokenizer, [captions[k] for k in chosen])
    to_device(teacher, workspace.device)
    to_device(text_encoder, workspace.device)
    shape = (config["in_channels"], config["sample_size"], config["sample_size"])
    files: list[Path] = []
    with torch.no_grad():
        empty = encode_tokens(text_encoder, tokenise(tokenizer, [""]).to(workspace.device))
        for start in tqdm(range(0, count, PAIR_CHUNK), desc="pairs", unit_scale=PAIR_CHUNK):
            files.append(workspace.work / "distillation" / "pairs" / f"{start:06d}.safetensors")
            if files[-1].is_file():
                continue
            some = tokens[start : start + PAIR_CHUNK]
            # rounded first: the teacher must start from the noise that is stored
            noise = torch.stack([noise_map(seed + start + k, shape) for k in range(len(some))]).half()
            context = encode_tokens(text_encoder, some.to(workspace.device))
            initial = noise.float().to(workspace.device)
            target = draw_many_steps(teacher, context, empty, initial, workspace.config("scheduler"), steps, guidance)
            save_tensors(files[-1], {"noise": noise, "target": target.half(), "tokens": some.clone()})
    found = [load_file(path) for path in files]
    return {name: torch.cat([chunk[name] for chunk in found]) for name in ("noise", "target", "tokens")}


def build_unet(workspace: Workspace) -> UNet2DConditionModel:
    """The UNet of the architecture, at random weights."""
    unet = UNet2DConditionModel.from_config(workspace.config("unet"))
    assert isinstance(unet, UNet2DConditionModel)
    return unet


def build_vae(workspace: Workspace) -> AutoencoderKL:
    """The autoencoder of the architecture, at random weights."""
    vae = AutoencoderKL.from_config(workspace.config("vae"))
    assert isinstance(vae, AutoencoderKL)
    return vae


def load_vae(workspace: Workspace) -> AutoencoderKL:
    """The finished autoencoder, frozen, with its scaling factor in its config."""
    vae = build_vae(workspace)
    vae.register_to_config(scaling_factor=workspace.finished("autoencoder")["scaling_factor"])
    return load_weights(workspace.work / "autoencoder" / "vae.safetensors", vae)


def load_teacher(workspace: Workspace) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """UNet and text encoder of the finished teacher, frozen."""
    workspace.finished("teacher")
    folder = workspace.work / "teacher"
    config = text_config(workspace.config("text_encoder"), read_tokenizer(folder / "tokenizer"))
    unet = load_weights(folder / "unet.safetensors", build_unet(workspace))
    return unet, load_weights(folder / "text_encoder.safetensors", CLIPTextModel(CLIPTextConfig(**config)))


def load_latents(workspace: Workspace) -> tuple[NDArray[np.float16], list[str], CLIPTokenizer]:
    """Scaled latents ``(N, 4, h, w)`` and captions of the training images, and the teacher's tokenizer."""
    folder = workspace.work / "autoencoder"
    captions = json.loads((folder / "captions.json").read_text())
    return np.load(folder / "latents.npy"), captions, read_tokenizer(workspace.work / "teacher" / "tokenizer")


def tokenise(tokenizer: CLIPTokenizer, captions: list[str]) -> Tensor:
    """Captions => ``(N, L)`` int64, padded and cut as in `networks.one_step.prompts`."""
    return tokenizer(captions, padding="max_length", truncation=True, return_tensors="pt").input_ids


def decoder(vae: AutoencoderKL, device: torch.device) -> Decoder:
    """The function that turns scaled latents into images in [-1, 1]; moves the autoencoder to the device."""
    to_device(vae, device)

    @torch.no_grad()
    def decode(latent: Tensor) -> Tensor:
        scaled = latent.to(device) / vae.config["scaling_factor"]
        return torch.cat([vae.decode(part).sample for part in scaled.split(16)]).clamp(-1, 1)

    return decode
