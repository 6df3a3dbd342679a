"""``make export``: an adapter in the format of the authors' released files, or of diffusers' LoRA."""

import argparse
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import save_file

from commands.cli.errors import user_errors
from commands.cli.recipes import base_source
from networks import OneStepGenerator, load_generator
from networks.checkpoints.adapter import CARD, read_adapter
from networks.checkpoints.card import AdapterCard
from networks.checkpoints.diffusers import to_diffusers
from networks.checkpoints.released import to_released
from storage import write_json

FORMATS = ("released", "released-stochastic", "diffusers")


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(
        prog="python -m commands.export",
        description="Write an adapter in another format, and say what that format cannot hold. released: released.pkl, "
        "paired for one direction, unpaired for two; released-stochastic: paired, for a strength below 1; diffusers: "
        "pytorch_lora_weights.safetensors of the UNet, and conv_in.safetensors.",
        allow_abbrev=False,
    )
    p.add_argument("--ckpt", required=True, metavar="PATH", help="run folder, adapter folder, .ckpt or released .pkl")
    p.add_argument("--format", required=True, choices=FORMATS, help="which")
    p.add_argument(
        "--out", required=True, metavar="FOLDER", help="made if missing; files of the same names are replaced"
    )
    p.add_argument("--base", metavar="BASE", help="where the base is, if not where training found it")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    own = parser().parse_args(args)
    adapter = read_adapter(own.ckpt)
    generator = load_generator(adapter, base_source(own.base))
    if not isinstance(generator, OneStepGenerator):
        raise ValueError(f"{own.ckpt} is a plain ResNet: no other format is known for it.")
    out = Path(own.out)
    if out.is_file():
        raise ValueError(f"OUT {out} is a file: give a folder.")
    lost = _write(generator, own.format, out)
    exported = {"format": own.format, "cannot_hold": lost}
    card = adapter.card
    write_json(out / CARD, AdapterCard.of(generator, card.run, card.metrics, card.best, exported).to_json())
    for path in sorted(p for p in out.iterdir() if p.suffix in (".pkl", ".safetensors")):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    for phrase in lost:
        print(f"this format cannot hold {phrase}")
    return 0


def _write(generator: OneStepGenerator, wanted: str, out: Path) -> list[str]:
    if wanted == "diffusers":
        lora, conv_in, lost = to_diffusers(generator)
        out.mkdir(parents=True, exist_ok=True)
        StableDiffusionPipeline.save_lora_weights(out, unet_lora_layers=lora)
        save_file(conv_in, out / "conv_in.safetensors")
        return lost
    content, lost = to_released(generator, stochastic=wanted == "released-stochastic")
    out.mkdir(parents=True, exist_ok=True)
    torch.save(content, out / "released.pkl")
    return lost


if __name__ == "__main__":
    raise SystemExit(main())
