"""``make export``: an adapter in the format of the authors' released files, or of diffusers' LoRA."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from commands.cli.errors import user_errors
from commands.cli.paths import check_checkpoint
from commands.cli.recipes import base_source
from storage import atomic_write, check_writable

if TYPE_CHECKING:
    from networks import OneStepGenerator

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
    check_checkpoint(own.ckpt)
    own.base = base_source(own.base)
    out = Path(own.out)
    check_writable(out / "adapter.json")
    lost = export(own.ckpt, own.base, own.format, out)
    for path in sorted(p for p in out.iterdir() if p.suffix in (".pkl", ".safetensors")):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    for phrase in lost:
        print(f"this format cannot hold {phrase}")
    return 0


def export(ckpt: str, base: str | None, wanted: str, out: Path) -> list[str]:
    """Write an adapter in another format, with an adapter.json beside it.

    Returns:
        What the format cannot hold.

    Raises:
        ValueError: the adapter cannot be read, or is of a plain network.
    """
    # These take seconds to import: errors before come at once.
    from networks import OneStepGenerator, load_generator
    from networks.checkpoints.adapter import CARD, read_adapter
    from networks.checkpoints.card import AdapterCard
    from storage import write_json

    adapter = read_adapter(ckpt)
    generator = load_generator(adapter, base)
    if not isinstance(generator, OneStepGenerator):
        raise ValueError(f"{ckpt} is a plain ResNet: no other format is known for it.")
    lost = _write(generator, wanted, out)
    exported = {"format": wanted, "cannot_hold": lost}
    card = adapter.card
    write_json(out / CARD, AdapterCard.of(generator, card.run, card.metrics, card.best, exported).to_json())
    return lost


def _write(generator: "OneStepGenerator", wanted: str, out: Path) -> list[str]:
    import torch
    from diffusers import StableDiffusionPipeline
    from safetensors.torch import save

    from networks.checkpoints.diffusers import to_diffusers
    from networks.checkpoints.released import to_released

    if wanted == "diffusers":
        lora, conv_in, lost = to_diffusers(generator)

        def write(tensors: dict[str, torch.Tensor], name: str) -> None:
            with atomic_write(out / Path(name).name) as part:
                part.write_bytes(save(tensors, {"format": "pt"}))

        StableDiffusionPipeline.save_lora_weights(out, unet_lora_layers=lora, save_function=write)
        write(conv_in, "conv_in.safetensors")
        return lost
    content, lost = to_released(generator, stochastic=wanted == "released-stochastic")
    with atomic_write(out / "released.pkl") as part:
        torch.save(content, part)
    return lost


if __name__ == "__main__":
    raise SystemExit(main())
