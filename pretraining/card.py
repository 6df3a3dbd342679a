"""The finished pocket base: files in Hugging Face layout, the measured figures, and the card that tells both."""

import json
import shutil
from typing import Any

import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor
from torchvision.utils import make_grid

from datamodules import scenes
from images.writing import write_image
from networks.one_step.bases import POCKET
from pretraining.captioned_scenes import WORLD_SEED
from pretraining.quality import Judge, measure
from pretraining.training import load_teacher, load_vae
from pretraining.workshop import Workshop, load_weights, stage
from storage import write_json

LIMIT = 25 * 2**20  # bytes of the whole folder
STAGES = ("autoencoder", "teacher", "distillation")


def export(shop: Workshop) -> None:
    """Write the base to `shop.out`, weights as float16.

    Raises:
        ValueError: the folder would be larger than 25 MiB.
    """
    shop.finished("distillation")
    unet: Any = UNet2DConditionModel.from_config(shop.config("unet"))
    unet = load_weights(shop.work / "distillation" / "unet.safetensors", unet)
    parts = {"vae": load_vae(shop), "unet": unet, "text_encoder": load_teacher(shop)[1]}
    size = 2 * sum(p.numel() for part in parts.values() for p in part.state_dict().values())
    if size > LIMIT:
        raise ValueError(f"The weights take {size / 2**20:.1f} MiB, the packaged base may take 25: use fewer channels.")
    for name, part in parts.items():
        part.half().save_pretrained(shop.out / name)
    config = shop.out / "text_encoder" / "config.json"
    # transformers opens weights in the type that the config names; on CPUs and in losses it must be float32
    write_json(config, {**json.loads(config.read_text()), "dtype": "float32"})
    shutil.copytree(shop.work / "teacher" / "tokenizer", shop.out / "tokenizer", dirs_exist_ok=True)
    write_json(shop.out / "scheduler" / "scheduler_config.json", shop.config("scheduler"))
    if shop.out.resolve() != POCKET:
        shutil.copyfile(POCKET / "model_index.json", shop.out / "model_index.json")
    print(f"export: {shop.out}, {size / 2**20:.1f} MiB of weights")


def quality(shop: Workshop) -> None:
    """Measure the exported base; write quality.json, samples.png and README.md into it, and print the table."""
    finished = {name: shop.finished(name) for name in STAGES}
    inputs = {name: record["fingerprint"] for name, record in finished.items()}
    with stage(shop, "quality", inputs) as results:
        if results is not None:
            report, samples = measure(shop, Judge(shop.device))
            write_image(shop.work / "quality" / "samples.png", sheet(samples))
            results |= {"steps": 0, "seconds": 0.0, "fingerprint": "", "report": report}
    report = shop.finished("quality")["report"]
    write_json(shop.out / "quality.json", report)
    shutil.copyfile(shop.work / "quality" / "samples.png", shop.out / "samples.png")
    table = quality_table(report)
    (shop.out / "README.md").write_text(card(shop, finished, report, table))
    print(table)


def sheet(samples: Tensor, side: int = 96) -> Tensor:
    """A column per fixed prompt, `(3, H, W)` in [-1, 1], of samples `(rows * 6, 3, h, w)`."""
    small = F.interpolate(samples, (side, side), mode="area") if samples.shape[-1] > side else samples
    return make_grid(small, nrow=len(scenes.PROMPTS), padding=2, pad_value=1.0)


def quality_table(report: dict[str, Any]) -> str:
    """The figures as a Markdown table."""
    tasks = list(report["real"]["probe"])
    head = ["", "FID", "KID x 1000", *(f"probe {task}" for task in tasks)]
    lines = [head, ["---"] * len(head)]
    names = {"one_step": "pocket, 1 step", "teacher": f"teacher, {report['teacher_steps']} steps", "real": "renders"}
    for key, name in names.items():
        row = report[key]
        probes = (f"{row['probe'][task]:.1%} ({row['probe_fixed_prompts'][task]:.1%})" for task in tasks)
        lines.append([name, f"{row['fid']:.2f}", f"{1000 * row['kid']:.2f}", *probes])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    auto, kept = report["autoencoder"], report["identity"]
    return (
        f"{table}\n\nAutoencoder on unseen scenes: PSNR {auto['psnr']:.2f} dB, LPIPS {auto['lpips']:.4f}; "
        f"with one step of the UNet in between: {kept['psnr']:.2f} dB, {kept['lpips']:.4f}. "
        f"Diversity: pictures of one prompt differ {report['diversity_mean']:.2f} times as much as renders do."
    )


def card(shop: Workshop, finished: dict[str, dict[str, Any]], report: dict[str, Any], table: str) -> str:
    """The model card, Markdown."""
    rows = "\n".join(
        f"| {name} | {record['steps']} | {record['seconds'] / 60:.1f} | {record['device']} | {record['fingerprint']} |"
        for name, record in finished.items()
    )
    prompts = "\n".join(f"- {prompt}" for prompt in scenes.PROMPTS.values())
    versions = ", ".join(f"{name} {number}" for name, number in finished["distillation"]["versions"].items())
    data, distilled = shop.settings.data, finished["distillation"]["settings"]
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# pocket: a one-step text-to-image model of {data.size} px, made here from scratch

One prediction at t = 999 turns noise and a prompt into a picture. Same kind of parts as SD-Turbo (AutoencoderKL with
4 latent channels, UNet2DConditionModel with cross-attention, CLIP text encoder and tokenizer, the same noise schedule,
epsilon prediction), small enough to ship with the package and to train with on two CPU cores. It knows rendered scenes
only, not photographs.

![Samples: one column per prompt below](samples.png)

{prompts}

and free captions in the renderer's words, such as "a street at night with a red car and trees".

## Data
{data.count} rendered {data.size} px pictures of each of the six worlds of `datamodules/scenes/`, world seed
{WORLD_SEED}, which no experiment uses. No scene was shown in both of its domains. Half of the captions are the world's
fixed prompt, half describe the scene. The autoencoder also saw edges and sketches of the pictures. No other data, no
pretrained weights; EfficientNet-Lite1 (ImageNet) judged the autoencoder's perceptual distance.

## Stages
| stage | steps | minutes | device | fingerprint |
| --- | --- | --- | --- | --- |
{rows}

Autoencoder: L1, perceptual distance, light KL, then a patch discriminator on the decoder. Teacher: UNet and text
encoder together, noise prediction, min-SNR weights, moving average. Distillation: regression on {distilled["pairs"]} of
the teacher's draws ({distilled["pairs_steps"]} steps, guidance {distilled["guidance"]}), then also a discriminator on
the teacher's features; all the while, pictures' own latents are handed on as they are, so that a translation starts as
what the autoencoder makes of its input. Seed {shop.settings.seed} throughout; {versions}.
Settings: `pretraining/pocket.yaml`; made by `make pocket`.

## Measured quality
On {report["n"]} pictures a side of scenes that no stage saw, with EfficientNet-Lite0 features ({report["features"]}),
which no stage was trained with. FID depends on n and features: compare it with the row "renders" (unseen renders
against other unseen renders at the same n), not with figures from elsewhere. Probe: a linear
probe trained on renders reads the domain that the prompt asked for; in brackets, of fixed prompts only. All figures:
`quality.json`, by `make pocket ARGS="--stage quality"`.

{table}

## Licence
Apache-2.0, weights and renderer alike: the pictures were drawn by this project's own code.
"""
