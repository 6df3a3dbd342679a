"""Estimate the memory of training without allocating it, by training steps on fake tensors (a shape, no data)."""

import weakref
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from datamodules.batches import EvaluationBatch, PairedBatch, UnpairedBatch
from lightning_modules.base import TranslationModule, feature_networks
from lightning_modules.runtime import AnyOptimizer, Runtime
from lightning_modules.unpaired import CycleGANTurbo
from networks import OneStepGenerator
from networks.features import FeatureNetwork

TOKENS = 77  # of a prompt's embedding


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of all tensors that are created inside and not yet freed.

    Attributes:
        live: bytes now.
        peak: the most so far; set it to `live` to start anew.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self._known: dict[int, weakref.finalize[..., torch.UntypedStorage]] = {}

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # noqa: ANN401  # as torch declares it
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


class NoTrainer(Runtime):
    """Runs training steps without a Trainer, on one rank, and reads no values, since fake tensors have none."""

    world_size = 1
    log_every = 0

    def __init__(self, module: TranslationModule) -> None:
        super().__init__(module)
        self._optimizers = module.configure_optimizers()

    def optimizers(self) -> Sequence[AnyOptimizer]:
        """Plain optimisers."""
        return self._optimizers

    def backward(self, loss: Tensor) -> None:
        """Plain backward."""
        loss.backward()

    def average_gradients(self, optimizer: AnyOptimizer) -> None:
        """There is one rank."""

    def is_finite(self, value: Tensor, on_every_rank: bool = False) -> bool:
        """Taken for granted."""
        return True

    def stop(self) -> None:
        """Nothing to end."""


class ShapeOfPrompts:
    """Replaces a text encoder: all-zero embeddings of the right shape.

    Args:
        shape: ``(L, D)`` of one prompt's embedding.
    """

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)

    def __call__(self, prompts: list[str], device: torch.device | str = "cpu") -> Tensor:
        """B texts => zeros ``(B, L, D)``."""
        return torch.zeros(len(prompts), *self.shape, device=device)

    def release(self) -> None:
        """Do nothing: there is no encoder to free."""


def count_memory(
    module: TranslationModule,
    batch: int,
    size: int,
    precision: str,
    evaluated_by: Sequence[FeatureNetwork] = (),
    evaluated: tuple[int, int] = (1, 256),
) -> dict[str, int]:
    """Estimate memory in bytes by kind, from a few training steps and a batch of validation on fake tensors.

    Blocks that training compiles run as they are: torch compiles nothing where a dispatch mode counts operators.

    Args:
        module: a model built on the meta device; it is of no use afterwards.
        batch: images per step.
        size: side of the images, pixels.
        precision: "32-true" or "bf16-mixed".
        evaluated_by: networks that stay on the device from the first validation on.
        evaluated: images of a batch of validation, and their side, pixels.

    Returns:
        In the order of printing; "peak" is the sum of those before it, "validation" the peak of that.
    """
    counter = PeakMemory()
    with FakeTensorMode(allow_non_fake_inputs=True), counter:
        _give_shape(module)
        weights = counter.live
        trained = sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)
        features = sum(_bytes(network.trunk) for network in feature_networks(module))
        prepare(module)
        inputs = random_batch(module, batch, size)
        # The first batch takes an optimiser step, which creates the optimisers' state; where gradients accumulate over
        # several batches, those of the second batch still exist in the third.
        before_a_step = module.accumulate - 1
        for batches_seen in (before_a_step, before_a_step) if before_a_step == 0 else (before_a_step, 0, 0):
            counter.peak = counter.live
            module.batches_seen = batches_seen
            with torch.autocast("cpu", torch.bfloat16) if precision == "bf16-mixed" else nullcontext():
                module.training_step(inputs, 0)
            if batches_seen == before_a_step:
                state = counter.live - weights
        peak, counter.peak = counter.peak, counter.live
        count, side = evaluated
        real = torch.rand(count, 3, side, side) * 2 - 1
        with torch.no_grad():
            module.validation_step(EvaluationBatch(real, "a2b", torch.arange(count), [""] * count), 0)
    beside = sum(_bytes(network.trunk) for network in evaluated_by)
    return {
        "frozen weights": weights - trained - features,
        "feature networks of training": features,
        "trained weights": trained,
        "their gradients": trained,
        "their optimisers": state,
        "networks of evaluation": beside,
        "activations at the peak": peak - weights - state - trained,
        "peak": peak + beside,
        "validation": counter.peak + beside,
    }


def prepare(module: TranslationModule) -> None:
    """Let a module's training steps run without Trainer and without text encoder."""
    generator = module.generator
    shape: Sequence[int] = (1, 1)
    if isinstance(generator, OneStepGenerator):
        shape = generator.conditions.embedding_shape(TOKENS, generator.unet.config["cross_attention_dim"])
    generator.encode_prompts = ShapeOfPrompts(shape)
    module.runtime = NoTrainer(module)


def random_batch(module: TranslationModule, batch: int, size: int) -> UnpairedBatch | PairedBatch:
    """Noise of the right shape; the memory of a step does not depend on what is in the images."""
    a, b = (torch.rand(batch, 3, size, size) * 2 - 1 for _ in range(2))
    index, words = torch.arange(batch), ["a photograph"] * batch
    with unset_fake_temporarily():  # steps read the values of the seeds
        seeds = torch.arange(batch)
    if isinstance(module, CycleGANTurbo):
        return UnpairedBatch(a, b, index, seeds, words, words)
    return PairedBatch(a, b, words, index, seeds, words)


def _bytes(module: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in module.state_dict().values())


def _give_shape(module: TranslationModule) -> None:
    """Replace a module's meta tensors by fake ones on the CPU; shared tensors stay shared."""
    networks = feature_networks(module)
    known: dict[int, Tensor] = {}

    def shaped(tensor: Tensor) -> Tensor:
        if id(tensor) not in known:
            empty = torch.empty(tensor.shape, dtype=tensor.dtype)
            trains = tensor.requires_grad
            known[id(tensor)] = nn.Parameter(empty, trains) if isinstance(tensor, nn.Parameter) else empty
        return known[id(tensor)]

    # Old tensors are held until the end, so that no id is reused.
    old: list[Tensor] = []
    for part in {m for root in (module, *(network.trunk for network in networks)) for m in root.modules()}:
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    old.append(tensor)
                    setattr(part, name, shaped(tensor))
    for network in networks:
        network._heads = [shaped(head) for head in network._heads]
