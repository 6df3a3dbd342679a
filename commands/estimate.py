"""``make estimate``: the memory that training will take, before any training.

The training step itself is run, with its losses, discriminators and optimisers, and one batch of validation, on
tensors that have a shape and no memory; every allocation and release is counted.  Nothing is downloaded: architectures
are enough.
"""

import argparse
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from commands.cli.errors import user_errors
from commands.cli.lightning_cli import TrainCLI
from commands.cli.recipes import FULL_SIZE, MEMORY, compose, names
from datamodules.batches import EvaluationBatch, PairedBatch, UnpairedBatch
from lightning_modules import CycleGANTurbo
from networks.features import FeatureNetwork, architectures_only

ARCHITECTURES = Path(__file__).parent.parent / "networks" / "architectures"
TOKENS = 77
MB = 2**20


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that were made inside and still live.

    Attributes:
        live: bytes now.
        peak: the most so far; set it to `live` to start anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.add, result)
        return result

    def add(self, tensor: Tensor) -> None:
        """Count the memory behind a tensor, once, until it is freed."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = weakref.finalize(storage, self._release, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def _release(self, key: int, size: int) -> None:
        del self._known[key]
        self.live -= size


def parser() -> argparse.ArgumentParser:
    """Arguments of this command; all others go to LightningCLI."""
    p = argparse.ArgumentParser(
        prog="python -m commands.estimate",
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
    with torch.device("meta"):
        cli = untrained(own.exp, own.base, own.memory, own.size, own.batch, overrides)
        judges = evaluation_networks(cli)
    data: Any = cli.datamodule
    size, batch = data.transform.crop, data.batch_size
    precision = str(cli.trainer.precision)
    found = estimate(cli.model, batch, size, precision, judges, (data.eval_batch_size, data.eval_size))
    print(f"{own.exp} on {own.base}: {size} px, batch {batch}, {precision}, on every GPU")
    for name, value in found.items():
        print(f"  {name:<34}{value / MB:>10,.0f} MB")
    print(
        f"Validation: {data.eval_batch_size} of {data.eval_size} x {data.eval_size} pixels at a time, in float32; "
        "wider pictures take more.\n"
        "Tensors only: the CUDA context, cuDNN's workspaces and fragmentation come on top; on several GPUs also DDP's "
        "buckets, as large as the gradients."
    )
    return 0


def untrained(
    exp: str, base: str, memory: str | None, size: int | None, batch: int | None, overrides: Sequence[str] = ()
) -> TrainCLI:
    """An experiment as `make train` would build it, but of architectures alone: no weights are read.

    Args:
        exp: name of the experiment.
        base: "pocket", "resnet", "sd-turbo" or "sdxl-turbo" (their packaged configs), or a folder.
        memory: a memory profile.
        size: side of the training crops, pixels; None for the recipe's.
        batch: images per step; None for the recipe's.
        overrides: further arguments of ``make train``.
    """
    recipe = compose(exp, base, memory)
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
    with architectures_only():
        return TrainCLI(Path("estimate") / recipe.exp / recipe.base / "version_0", [*arguments, *overrides])


def evaluation_networks(cli: TrainCLI) -> list[FeatureNetwork]:
    """The feature networks that validation brings along, from its first time on, beside training's own."""
    cli.scoring.scorer.share(cli.model)
    with architectures_only():
        cli.scoring.scorer.build()
    own = set(_judges(cli.model))
    return [network for network in cli.scoring.scorer.networks.values() if network not in own]


def estimate(
    module: Any,
    batch: int,
    size: int,
    precision: str,
    evaluated_by: Sequence[FeatureNetwork] = (),
    evaluated: tuple[int, int] = (1, 256),
) -> dict[str, int]:
    """Bytes by kind, from a few training steps and a batch of validation on tensors without memory.

    Args:
        module: a `CycleGANTurbo` or `Pix2PixTurbo` built on the meta device.
        batch: images per step.
        size: side of the images, pixels.
        precision: "32-true" or "bf16-mixed".
        evaluated_by: networks that stay on the device from the first validation on.
        evaluated: pictures of a batch of validation, and their side, pixels.

    Returns:
        In the order of printing; "peak" is the sum of those before it, "validation" the peak of that.
    """
    counter = PeakMemory()
    with FakeTensorMode(allow_non_fake_inputs=True), counter:
        _give_shape(module)
        weights = counter.live
        trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
        judges = sum(
            _bytes(network.trunk) for network in {m for m in module.modules() if isinstance(m, FeatureNetwork)}
        )
        with without_trainer(module):
            inputs = random_batch(module, batch, size)
            # The first batch steps, which makes the optimisers' state; with several batches per step, the gradients of
            # the second are still there in the third.
            accumulate, module.accumulate = module.accumulate, 1
            for _ in range(2 if accumulate == 1 else 3):
                counter.peak = counter.live
                with torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext():
                    module.training_step(inputs, 0)
                if module.accumulate == 1:
                    state = counter.live - weights
                module.accumulate = accumulate
            peak, counter.peak = counter.peak, counter.live
            count, side = evaluated
            real = torch.rand(count, 3, side, side) * 2 - 1
            with torch.no_grad():
                module.validation_step(EvaluationBatch(real, "a2b", torch.arange(count), [""] * count), 0)
    beside = sum(_bytes(network.trunk) for network in evaluated_by)
    return {
        "frozen weights": weights - trained - judges,
        "judges (LPIPS, discriminator)": judges,
        "trained weights": trained,
        "their gradients": trained,
        "their optimisers": state,
        "networks of evaluation": beside,
        "activations at the peak": peak - weights - state - trained,
        "peak": peak + beside,
        "validation": counter.peak + beside,
    }


def _judges(module: nn.Module) -> list[FeatureNetwork]:
    return [m for m in module.modules() if isinstance(m, FeatureNetwork)]


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


def _give_shape(module: Any) -> None:
    """Meta tensors => fake ones; what was shared stays shared."""
    judges = _judges(module)
    known: dict[int, Tensor] = {}

    def shaped(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            trains = tensor.requires_grad
            known[id(tensor)] = nn.Parameter(empty, trains) if isinstance(tensor, nn.Parameter) else empty
        return known[id(tensor)]

    # Every old tensor stays alive until the end: an id must not be given out twice.
    old = []
    for part in {m for root in (module, *(judge.trunk for judge in judges)) for m in root.modules()}:
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    old.append(tensor)
                    tensors[name] = shaped(tensor)  # type: ignore[assignment]
    module._device = torch.device("cpu")  # as Lightning's own .to() would set it
    for judge in judges:
        judge._heads = [shaped(head) for head in judge._heads]


@contextmanager
def without_trainer(module: Any) -> Iterator[None]:
    """What a training step asks of the trainer, and what reads values, which fake tensors lack."""
    unet = getattr(module.generator, "unet", None)
    shape = (1, 1)
    if unet is not None:
        shape = module.generator.conditions.embedding_shape(TOKENS, unet.config.cross_attention_dim)
    module.generator.encode_prompts = lambda prompts, device=None: torch.zeros(len(prompts), *shape, device=device)
    optimizers = module.configure_optimizers()
    module._optimizers = lambda: optimizers
    module.manual_backward = lambda loss: loss.backward()
    module.check_finite = module.check_gradient = lambda *values: None
    module.count = module.log_terms = lambda *values: None
    yield


class _Seeds(list[int]):
    """Stands where a tensor of seeds would: its values must be known."""

    def tolist(self) -> list[int]:
        return list(self)


def random_batch(module: Any, batch: int, size: int) -> UnpairedBatch | PairedBatch:
    """Noise of the right shape; the memory of a step does not depend on what is in the pictures."""
    a, b = (torch.rand(batch, 3, size, size) * 2 - 1 for _ in range(2))
    index, seeds, words = torch.arange(batch), _Seeds(range(batch)), ["a photograph"] * batch
    if isinstance(module, CycleGANTurbo):
        return UnpairedBatch(a, b, index, seeds, words, words)  # type: ignore[arg-type]
    return PairedBatch(a, b, words, index, seeds, words)  # type: ignore[arg-type]


if __name__ == "__main__":
    raise SystemExit(main())
