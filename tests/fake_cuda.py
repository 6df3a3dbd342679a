"""Code for CUDA without a GPU: fake tensors of device ``cuda:0``, which have a shape and no values.

Fake mode refuses most operators that get tensors of several devices, but lets a convolution of an image on CUDA with
weights on the CPU pass; `OneDevice` refuses them all.
"""

import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.optim import optimizer as optimizers
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_modules.base import TranslationModule
from lightning_modules.memory import NoTrainer
from lightning_modules.runtime import Runtime

CUDA = torch.device("cuda:0")
aten = torch.ops.aten
TRANSFERS = {aten.copy_.default, aten._to_copy.default}
# A tensor on CUDA takes places that are on the CPU; not the other way round.
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}


class DeviceMixError(RuntimeError):
    """An operator got tensors of several devices."""


class OneDevice(TorchDispatchMode):
    """Requires of every operator that its tensors lie on one device, and answers reads of values.

    As in PyTorch, a tensor without dimensions may lie on the CPU where operators work element by element.
    """

    def __torch_dispatch__(
        self, func: OpOverload, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:  # as torch declares it
        if func is aten._local_scalar_dense.default:
            return value_of(args[0]).item()
        places = args[1] if func in INDEXING and args[0].device.type != "cpu" else ()
        if func not in TRANSFERS:
            leaves = list(tensors_in((*args, *(kwargs or {}).values())))
            tensors = [leaf for leaf in leaves if all(leaf is not place for place in places)]
            by_element = torch.Tag.pointwise in func.tags or "foreach" in func.name() or func in INDEXING
            if len({tensor.device for tensor in tensors if tensor.dim() or not by_element}) > 1:
                found = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
                raise DeviceMixError(f"{func} got tensors of several devices: {found}")
        return func(*args, **(kwargs or {}))


def tensors_in(values: Iterable[object]) -> Iterator[Tensor]:
    """The tensors among an operator's arguments, which may lie in lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from tensors_in(value)


def value_of(tensor: Tensor) -> np.ndarray[Any, Any]:
    """What every read of a tensor's values gives, of its shape and kind.

    True for an answer, 1 for what lies on the CPU (the optimisers' counts of steps), 0 for what lies on CUDA (such as
    the mark of a loss that is not finite).
    """
    one = tensor.dtype == torch.bool or tensor.device.type == "cpu"
    names = {torch.bool: np.bool_, torch.uint8: np.uint8, torch.int64: np.int64, torch.float64: np.float64}
    return np.full(tuple(tensor.shape), one, names.get(tensor.dtype, np.float32))


@contextmanager
def fake_cuda() -> Iterator[None]:
    """Context in which tensors are fake, CUDA seems to be there with bfloat16, and devices are not mixed.

    A module on the meta device moves by ``module.to(CUDA)``, as a real one does; what it forgets stays on meta.
    """
    swap, inference_mode = torch.utils.swap_tensors, torch.inference_mode

    def without_gradients(mode: bool = True) -> AbstractContextManager[None]:
        return torch.no_grad() if mode else inference_mode(False)  # inside, fake tensors reach for CUDA's driver

    def swap_devices(old: Tensor, new: Tensor) -> None:
        if old.device != new.device:
            swap(old, new)
        elif old.dtype != new.dtype:  # a shared module is moved twice, the second time to where it is
            old.data = new.data

    as_on_cuda = [*optimizers._foreach_supported_types, FakeTensor]
    with (
        # without a GPU, torch.autocast switches itself off
        mock.patch("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
        mock.patch("torch.inference_mode", without_gradients),
        mock.patch("torch.cuda.is_bf16_supported", lambda including_emulation=True: True),
        mock.patch.object(optimizers, "_foreach_supported_types", as_on_cuda),
        mock.patch("torch.utils.swap_tensors", swap_devices),
        FakeTensorMode(allow_non_fake_inputs=True),
        OneDevice(),
    ):
        yield


def probe() -> str:
    """Compute on fake tensors in bfloat16: why this version of torch cannot, or ""; some versions abort."""
    layer = torch.nn.Conv2d(3, 4, 3, device="meta")
    try:
        with fake_cuda(), torch.autocast("cuda", torch.bfloat16):
            result = layer.to(CUDA)(torch.ones(1, 3, 8, 8).to(CUDA))
            works = result.device == CUDA and result.dtype == torch.bfloat16 and not result.float().sum().item()
            return "" if works else "it computes elsewhere, or in another precision"
    except (RuntimeError, AssertionError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def reason_to_skip() -> str | None:
    """Why this version of torch cannot run code for CUDA on fake tensors; None where it can.

    Asked of a child process: torch 2.9 aborts.

    Raises:
        CalledProcessError: the child failed otherwise, which is a fault of ours.
    """
    words = [sys.executable, "-c", f"from {__name__} import probe; print(probe())"]
    done = subprocess.run(words, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    if done.returncode < 0:
        return signal.strsignal(-done.returncode)
    done.check_returncode()
    return done.stdout.strip() or None


class FakeRuntime(NoTrainer):
    """Runs training steps without a Trainer; values are read and logged as in a training.

    Attributes:
        logged: scalars of the last batch.
    """

    log_every = 1
    is_finite = Runtime.is_finite

    def __init__(self, module: TranslationModule) -> None:
        super().__init__(module)
        self.logged: Mapping[str, float] = {}

    def backward(self, loss: Tensor) -> None:
        """Give a gradient to each parameter that the loss depends on: autograd itself needs a real CUDA device."""
        todo, seen = [loss.grad_fn], set()
        while todo:
            node = todo.pop()
            if node is None or node in seen:
                continue
            seen.add(node)
            todo += [following for following, _ in node.next_functions]
            leaf = getattr(node, "variable", None)
            if leaf is not None and leaf.grad is None:
                leaf.grad = torch.zeros_like(leaf)

    def log(self, scalars: Mapping[str, float], images_seen: int) -> None:
        """Keep them."""
        self.logged = scalars
