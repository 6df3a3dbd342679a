"""Write the finished pocket base: files in Hugging Face layout, measured quality, model card."""

import json
import shutil
from typing import Any

import torch.nn.functional as F
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torchvision.utils import make_grid
from transformers import PreTrainedModel

from datamodules import scenes
from images.writing import write_image
from networks.one_step.bases import POCKET
from pretraining.captioned_scenes import WORLD_SEED
from pretraining.quality import Features, measure
from pretraining.training import build_unet, load_teacher, load_vae
from pretraining.workspace import Workspace, load_weights, run_stage
from storage import write_json

LIMIT = 25 * 2**20  # bytes of all weights
STAGES = ("autoencoder", "teacher", "distillation")


def export(workspace: Workspace) -> None:
    """Write the base to `workspace.out`, with float16 weights.

    Raises:
        ValueError: the weights would take more than 25 MiB.
    """
    workspace.finished("distillation")
    unet = load_weights(workspace.work / "distillation" / "unet.safetensors", build_unet(workspace))
    vae, text_encoder = load_vae(workspace), load_teacher(workspace)[1]
    parts: dict[str, ModelMixin | PreTrainedModel] = {"vae": vae, "unet": unet, "text_encoder": text_encoder}
    size = 2 * sum(p.numel() for part in parts.values() for p in part.state_dict().values())
    if size > LIMIT:
        raise ValueError(f"The weights take {size / 2**20:.1f} MiB, the packaged base may take 25: use fewer channels.")
    for name, part in parts.items():
        nn.Module.half(part)
        part.save_pretrained(workspace.out / name)
    config = workspace.out / "text_encoder" / "config.json"
    # transformers loads weights in the type that the config names; CPUs and losses need float32
    write_json(config, {**json.loads(config.read_text()), "dtype": "float32"})
    shutil.copytree(workspace.work / "teacher" / "tokenizer", workspace.out / "tokenizer", dirs_exist_ok=True)
    write_json(workspace.out / "scheduler" / "scheduler_config.json", workspace.config("scheduler"))
    if workspace.out.resolve() != POCKET:
        shutil.copyfile(POCKET / "model_index.json", workspace.out / "model_index.json")
    print(f"export: {workspace.out}, {size / 2**20:.1f} MiB of weights")


def quality(workspace: Workspace) -> None:
    """Measure the exported base, write quality.json, samples.png and README.md into it, and print the table."""
    finished = {name: workspace.finished(name) for name in STAGES}
    inputs = {name: record["fingerprint"] for name, record in finished.items()}
    with run_stage(workspace, "quality", inputs) as results:
        if results is not None:
            report, samples = measure(workspace, Features(workspace.device))
            write_image(workspace.work / "quality" / "samples.png", sheet(samples))
            results |= {"steps": 0, "seconds": 0.0, "fingerprint": "", "report": report}
    report = workspace.finished("quality")["report"]
    write_json(workspace.out / "quality.json", report)
    shutil.copyfile(workspace.work / "quality" / "samples.png", workspace.out / "samples.png")
    table = quality_table(report)
    (workspace.out / "README.md").write_text(card(workspace, finished, report, table))
    print(table)


def sheet(samples: Tensor, side: int = 96) -> Tensor:
    """Samples `(rows * 6, 3, h, w)` => one image `(3, H, W)` in [-1, 1] with a column per fixed prompt."""
    small = F.interpolate(samples, (side, side), mode="area") if samples.shape[-1] > side else samples
    return make_grid(small, nrow=len(scenes.PROMPTS), padding=2, pad_value=1.0)


def quality_table(report: dict[str, Any]) -> str:
    """The content of quality.json as a Markdown table."""
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
        f"Diversity: images of one prompt differ {report['diversity_mean']:.2f} times as much as renders do."
    )


def card(workspace: Workspace, finished: dict[str, dict[str, Any]], report: dict[str, Any], table: str) -> str:
    """The model card, Markdown."""
    rows = "\n".join(
        f"| {name} | {record['steps']} | {record['seconds'] / 60:.1f} | {record['device']} | {record['fingerprint']} |"
        for name, record in finished.items()
    )
    prompts = "\n".join(f"- {prompt}" for prompt in scenes.PROMPTS.values())
    versions = ", ".join(f"{name} {number}" for name, number in finished["distillation"]["versions"].items())
    data, distilled = workspace.settings.data, finished["distillation"]["settings"]
    return f"""---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---
# pocket: a one-step text-to-image model of {data.size} px, trained from scratch by this project

One prediction at t = 999 turns noise and a prompt into an image. Same kind of parts as SD-Turbo (AutoencoderKL with
4 latent channels, UNet2DConditionModel with cross-attention, CLIP text encoder and tokenizer, the same noise schedule,
epsilon prediction), small enough to ship with the package and to train with on two CPU cores. It was trained on
rendered scenes only, not on photographs.

![Samples: one column per prompt below](samples.png)

{prompts}

and free captions in the renderer's words, such as "a street at night with a red car and trees".

## Data
{data.count} rendered {data.size} px images of each of the six worlds of `datamodules/scenes/`, world seed
{WORLD_SEED}, which no experiment uses. No scene was shown in both of its domains. Half of the captions are the world's
fixed prompt, half describe the scene. The autoencoder also saw edges and sketches of the images. No other data, no
pretrained weights; the autoencoder's perceptual distance is by EfficientNet-Lite1 (ImageNet).

## Stages
| stage | steps | minutes | device | fingerprint |
| --- | --- | --- | --- | --- |
{rows}

Autoencoder: L1, perceptual distance, light KL, then a patch discriminator on the decoder. Teacher: UNet and text
encoder together, noise prediction, min-SNR weights, moving average. Distillation: regression on {distilled["pairs"]} of
the teacher's samples ({distilled["pairs_steps"]} steps, guidance {distilled["guidance"]}), then also a discriminator on
the teacher's features; throughout, latents of images are to be returned unchanged, so that a translation starts as
the autoencoder's reconstruction of its input. Seed {workspace.settings.seed} throughout; {versions}.
Settings: `pretraining/pocket.yaml`; made by `make pocket`.

## Measured quality
On {report["n"]} images a side of scenes that no stage saw, with EfficientNet-Lite0 features ({report["features"]}),
which no stage was trained with. FID depends on n and features: compare it with the row "renders" (unseen renders
against other unseen renders at the same n), not with figures from elsewhere. Probe: a linear
probe trained on renders reads the domain that the prompt asked for; in brackets, of fixed prompts only. All figures:
`quality.json`, by `make pocket ARGS="--stage quality"`.

{table}

## Licence
Apache-2.0, weights and renderer alike: the images were rendered by this project's own code.
"""
