"""``make estimate``: the memory that training will take, before any training.

The training step itself is run, with its losses, discriminators and optimisers, and one batch of validation, on
tensors without data (`lightning_modules.memory`).  Nothing is downloaded: architectures are enough.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from commands.cli.errors import user_errors
from commands.cli.keys import check_keys
from commands.cli.recipes import FULL_SIZE, MEMORY, compose, names
from commands.cli.values import check_values
from limits import LIMITS, check_range

if TYPE_CHECKING:
    from commands.cli.lightning_cli import TrainCLI
    from networks.features import FeatureNetwork

ARCHITECTURES = Path(__file__).parent.parent / "networks" / "architectures"
MB = 2**20


def parser() -> argparse.ArgumentParser:
    """Arguments of this command; all others go to LightningCLI."""
    p = argparse.ArgumentParser(
        prog="one-step estimate",
        description="Estimate the memory of a training step. Any further argument overrides the configuration, "
        "e.g. --model.init_args.generator.init_args.checkpointing=true --trainer.precision=bf16-mixed.",
    )
    p.add_argument("--exp", required=True, metavar="NAME", help=f"one of {', '.join(names())}")
    p.add_argument(
        "--base", default="pocket", metavar="BASE", help="pocket (default), sd-turbo, sdxl-turbo, or a folder"
    )
    p.add_argument("--memory", metavar="PROFILE", help=f"for a card of this size: {', '.join(names(MEMORY))}")
    p.add_argument("--size", type=int, metavar="PIXELS", help="side of the training crops (default: the recipe's)")
    p.add_argument("--batch", type=int, metavar="N", help="images per step and GPU (default: the recipe's)")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    own, overrides = parser().parse_known_args(args)
    words = configuration(own.exp, own.base, own.memory, own.size, own.batch, overrides)
    import torch  # after the checks: it takes seconds

    from lightning_modules.memory import count_memory

    with torch.device("meta"):
        cli = untrained(*words)
        evaluation = evaluation_networks(cli)
    data = cli.datamodule
    size, batch = data.transform.crop, data.batch_size
    precision = str(cli.trainer.precision)
    found = count_memory(cli.model, batch, size, precision, evaluation, (data.eval_batch_size, data.eval_size))
    print(f"{own.exp} on {own.base}: {size} px, batch {batch}, {precision}, on every GPU")
    for name, value in found.items():
        print(f"  {name:<34}{value / MB:>10,.0f} MB")
    print(
        f"Validation: {data.eval_batch_size} of {data.eval_size} x {data.eval_size} pixels at a time, in float32; "
        "wider images take more.\n"
        "Tensors only: the CUDA context, cuDNN's workspaces and fragmentation come on top. Several GPUs average their "
        "gradients in a copy of them, when the activations are free."
    )
    return 0


def configuration(
    exp: str, base: str, memory: str | None, size: int | None, batch: int | None, overrides: Sequence[str] = ()
) -> tuple[Path, list[str]]:
    """The run folder that the estimate stands for, and LightningCLI's arguments: architectures without weights.

    Args:
        exp: name of the experiment.
        base: "pocket", "resnet", "sd-turbo" or "sdxl-turbo" (their packaged configs), or a folder.
        memory: a memory profile.
        size: side of the training crops, pixels; None for the recipe's.
        batch: images per step; None for the recipe's.
        overrides: further arguments of ``make train``.

    Raises:
        ValueError: one of them is unknown, or not positive.
    """
    for name, value, setting in (("SIZE", size, "crop"), ("BATCH", batch, "batch_size")):
        if value is not None:
            check_range(name, value, LIMITS[setting])
    recipe = compose(exp, base, memory)
    check_keys(recipe, overrides)
    check_values(recipe, overrides)
    arguments = recipe.arguments
    generator = "--model.init_args.generator.init_args"
    if base in FULL_SIZE:
        arguments.append(f"{generator}.base={ARCHITECTURES / base}")
    if base != "resnet":
        arguments.append(f"{generator}.random_init=true")
    if size is not None:
        arguments += [f"--data.init_args.{name}={size}" for name in ("resize", "crop")]
    if batch is not None:
        arguments.append(f"--data.init_args.batch_size={batch}")
    one_gpu = ["--trainer.devices=1", "--trainer.num_nodes=1"]  # each takes as much, and this machine may have fewer
    return Path("estimate") / recipe.exp / recipe.base / "version_0", [*arguments, *overrides, *one_gpu]


def untrained(run_folder: Path, arguments: list[str]) -> "TrainCLI":
    """An experiment as `make train` would build it, but of architectures alone: no weights are read."""
    from commands.cli.lightning_cli import TrainCLI
    from networks.features import architectures_only

    with architectures_only():
        return TrainCLI(run_folder, arguments)


def evaluation_networks(cli: "TrainCLI") -> "list[FeatureNetwork]":
    """The feature networks that stay on the device from the first validation on, beside those of training."""
    from lightning_modules.base import feature_networks
    from networks.features import architectures_only

    cli.scoring.scorer.share(cli.model)
    with architectures_only():
        cli.scoring.scorer.build()
    own = set(feature_networks(cli.model))
    return [network for network in cli.scoring.scorer.networks.values() if network not in own]


if __name__ == "__main__":
    raise SystemExit(main())
