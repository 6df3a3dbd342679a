"""LoRA: its targets, how strength and prompt scale it, how it is merged; and the dtype of the frozen weights.

Scale factors reach LoRA layers through a dynamic scope, never as a switched module attribute: gradient checkpointing
runs a block a second time during backward, and `checkpoint` opens the same scope again for that second run.
`torch.compile` cannot read the scope: a compiled function is given its values by `call_modulated`.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from types import MethodType
from typing import Concatenate, NamedTuple, ParamSpec, TypeVar

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Conv2d as LoraConv
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn

from networks.one_step.diffusion import blend, per_sample
from storage import shortened

# Module names end in one of these (METHOD: q, k, v, out, proj_in/out, feed-forward, every conv but the UNet's first).
UNET_TARGETS = (
    "to_q to_k to_v to_out.0 proj_in proj_out ff.net.0.proj ff.net.2 conv conv1 conv2 conv_shortcut conv_out".split()
)
VAE_TARGETS = "to_q to_k to_v to_out.0 conv conv1 conv2 conv_in conv_out conv_shortcut".split()
ADAPTER = "default"
SMALL_LAYER = 100_000
"""Weights of a layer up to which `W + BA` is formed at every call: cheaper than two more passes over the activations,
which outnumber the weights by far in small networks, and dearer in large ones, where its gradient has the size of W."""

FEW_CHANNELS = 8  # of a latent: 4; of its mean and variance: 8

LoraLayer = LoraConv | LoraLinear
Layer = TypeVar("Layer", bound=nn.Module)
Network = TypeVar("Network", bound=nn.Module)
Output = TypeVar("Output")
P = ParamSpec("P")


class Modulation(NamedTuple):
    """What scales the LoRA layers of a pass.

    Attributes:
        strength: ``(B,)`` in [0, 1], one per sample of the batch; None is full strength at no cost.
        code: of the prompts, ``(B, K)`` or ``(1, K)`` for all; read by layers with a gate.
    """

    strength: Tensor | None = None
    code: Tensor | None = None


UNMODULATED = Modulation()
_modulation: ContextVar[Modulation] = ContextVar("modulation", default=UNMODULATED)
_formed: ContextVar[dict[nn.Module, Tensor] | None] = ContextVar("formed", default=None)
_traced = UNMODULATED  # read only while Dynamo traces, which keeps it to the trace: threads do not meet here


@contextmanager
def modulated(strength: Tensor | None = None, code: Tensor | None = None) -> Iterator[None]:
    """Context in which LoRA layers and blended convolutions are scaled; see `Modulation`."""
    token = _modulation.set(Modulation(strength, code))
    try:
        yield
    finally:
        _modulation.reset(token)


def current_modulation() -> Modulation:
    """That of the innermost `modulated`, or of the `call_modulated` that is being traced."""
    return _traced if torch.compiler.is_dynamo_compiling() else _modulation.get()


def call_modulated(modulation: Modulation, function: Callable[P, Output], *args: P.args, **kwargs: P.kwargs) -> Output:
    """Call a function so that `torch.compile` traces its modulation as inputs, whose values may differ at every call.

    Args:
        modulation: that of the scope; where nothing is traced, the layers read it from there.
        function: what to call.
        *args: of the function.
        **kwargs: of the function.
    """
    global _traced
    _traced = modulation
    try:
        return function(*args, **kwargs)
    finally:
        _traced = UNMODULATED


@contextmanager
def weights_formed_once(wanted: bool = True) -> Iterator[None]:
    """Context of passes that share one backward: each sum ``W + BA`` without gates is formed by its first use alone.

    Args:
        wanted: False forms it at every use, as outside, and as in compiled blocks always.
    """
    token = _formed.set({} if wanted else None)
    try:
        yield
    finally:
        _formed.reset(token)


def checkpoint(module: Callable[..., Output], *args: object) -> Output:
    """Non-reentrant gradient checkpointing that recomputes under the modulation of the first run."""
    modulation = _modulation.get()

    def run(*inputs: object) -> Output:
        # Both runs must compute the same, so neither may find a sum that another one has formed.
        with modulated(*modulation), weights_formed_once(False):
            return module(*inputs)

    return torch.utils.checkpoint.checkpoint(run, *args, use_reentrant=False)


def inject_lora(
    module: Network,
    targets: Sequence[str],
    rank: int,
    alpha: float,
    leave_out: Sequence[str] = (),
    code_channels: int = 0,
) -> Network:
    """Put a LoRA of one rank on every layer whose name ends in a target; in place; exact no-op until trained.

    Freezes everything else in ``module`` (peft does), so call it before anything is made trainable.

    Args:
        module: a network made of linear and convolution layers.
        targets: name endings, or full names.
        rank: r of LoRA (Hu et al. 2021, Sec. 4.1), at least 1.
        alpha: the scale is ``alpha / rank``.
        leave_out: prefixes of module names that get none.
        code_channels: K of the prompts' codes, which then gate each rank: ``W + s B diag(1 + G code) A``; 0 gives no
            gates.  G is random at the start, so that different prompts train different ranks from the first step.

    Raises:
        ValueError: the rank is below 1, or no layer's name ends in a target.
    """
    if rank < 1:
        raise ValueError(f"LoRA rank must be at least 1, got {rank}.")
    module.requires_grad_(False)
    if leave_out:
        endings = tuple(f".{target}" for target in targets)
        named = (name for name, _ in module.named_modules())
        targets = [name for name in named if f".{name}".endswith(endings) and not name.startswith(tuple(leave_out))]
    # lora_alpha is annotated int by peft; any number scales.
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets), init_lora_weights="gaussian")  # type: ignore[arg-type]
    try:
        inject_adapter_in_model(config, module, adapter_name=ADAPTER)
    except ValueError as error:  # whose message lists every target
        raise ValueError(f"No layer can take a LoRA whose name ends in one of {shortened(targets)}.") from error
    for layer in lora_layers(module):
        small = _base_layer(layer).weight.numel() <= SMALL_LAYER
        replace_forward(layer, _forward_small if small else _forward_large)
        if code_channels:
            gate = nn.Linear(code_channels, rank, bias=False)
            nn.init.normal_(gate.weight, std=2 / code_channels**0.5)  # gates of different prompts differ by about 1
            layer.add_module("gate", gate)
    return module


def replace_forward(layer: Layer, forward: Callable[Concatenate[Layer, P], Output]) -> None:
    """Give this one layer, and not its class, another forward."""
    layer.forward = MethodType(forward, layer)  # type: ignore[method-assign]


def _class_forward(layer: Layer, x: Tensor) -> Tensor:
    return type(layer).forward(layer, x)


def _base_layer(layer: LoraLayer) -> nn.Conv2d | nn.Linear:
    base = layer.get_base_layer()
    assert isinstance(base, (nn.Conv2d, nn.Linear))  # torch.compile of 2.9 reads no union of types
    return base


def _gates(layer: LoraLayer) -> Tensor | None:
    """Factor of each rank by the prompt, ``(B, r)`` or ``(1, r)``; None where the layer has no gate or no prompt."""
    code = current_modulation().code
    if code is None or not is_gated(layer):
        return None
    return 1 + layer.get_submodule("gate")(code)


def is_gated(layer: LoraLayer) -> bool:
    """Whether the prompt gates a layer's ranks, so that it cannot be merged."""
    return hasattr(layer, "gate")


def _forward_large(layer: LoraLayer, x: Tensor) -> Tensor:
    """``W x + r B (s g A x)`` with strength r and gates g: they scale the few channels of ``A x``."""
    low: Tensor = layer.lora_A[ADAPTER](x)
    if layer.scaling[ADAPTER] != 1:
        low = low * layer.scaling[ADAPTER]
    strength = current_modulation().strength
    if strength is not None:
        low = low * per_sample(strength, low)
    gates = _gates(layer)
    if gates is not None:
        low = low * (gates[:, :, None, None] if isinstance(layer, LoraConv) else gates[:, None]).to(low.dtype)
    result: Tensor = layer.get_base_layer()(x) + layer.lora_B[ADAPTER](low)
    return result


def _forward_small(layer: LoraLayer, x: Tensor) -> Tensor:
    """``(W + s B A) x``, or ``(W + s B diag(g) A) x`` where one prompt gates all samples.

    Not under autocast: in bfloat16 the small values of an untrained LoRA would be rounded away when added to a weight.
    """
    strength, code = current_modulation()
    several = code is not None and code.shape[0] > 1 and is_gated(layer)
    if several or strength is not None or torch.is_autocast_enabled(x.device.type):
        return _forward_large(layer, x)
    gates = _gates(layer)
    formed = None if gates is not None or torch.compiler.is_dynamo_compiling() else _formed.get()
    if formed is None:
        weight = _sum(layer, gates)
    else:
        if layer not in formed:
            formed[layer] = _sum(layer)
        weight = formed[layer]
    base = _base_layer(layer)
    if isinstance(base, nn.Conv2d):
        return base._conv_forward(x, weight, base.bias)
    return F.linear(x, weight, base.bias)


def _sum(layer: LoraLayer, gates: Tensor | None = None) -> Tensor:
    """``W + s B A``, or with gates ``(1, r)`` ``W + s B diag(g) A``."""
    base = _base_layer(layer)
    down = layer.lora_A[ADAPTER].get_parameter("weight")
    up = layer.lora_B[ADAPTER].get_parameter("weight").flatten(1)
    if gates is not None:
        up = up * gates
    if not down.is_contiguous():
        # Channels last: in the order in which they lie in memory, so that neither this nor its gradient copies them.
        rows = down.permute(0, 2, 3, 1)
        delta = (up @ rows.flatten(1)).view(-1, *rows.shape[1:]).permute(0, 3, 1, 2)
    else:
        delta = (up @ down.flatten(1)).view_as(base.weight)
    return torch.add(base.weight, delta, alpha=layer.scaling[ADAPTER])


def lora_layers(module: nn.Module) -> list[LoraLayer]:
    """All LoRA layers of a module, in order."""
    return [m for m in module.modules() if isinstance(m, LoraLayer)]


class TrainedConv(nn.Module):
    """The UNet's first convolution, trained in full beside its frozen pretrained twin.

    With a strength ``r`` the outputs blend as ``r * trained + (1 - r) * pretrained``; without, only the trained runs.
    """

    def __init__(self, pretrained: nn.Conv2d) -> None:
        super().__init__()
        self.pretrained = pretrained.requires_grad_(False)
        self.trained = copy.deepcopy(pretrained).float().requires_grad_(True)

    def forward(self, latent: Tensor) -> Tensor:
        """``(B, C_in, h, w)`` -> ``(B, C_out, h, w)``."""
        strength = current_modulation().strength
        if strength is None:
            return self.trained(latent)
        return blend(strength, self.trained(latent), self.pretrained(latent))


def merge_lora(module: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Fold every LoRA without a gate into its layer for inference; in place; strength is 1 from then on.

    Each merged layer gets a weight of its own, summed in float32: two directions share their frozen weights, and adding
    one direction's LoRA to the shared tensor would change the other.

    Args:
        module: network with LoRA layers.
        dtype: to which each weight of a convolution or linear layer is cast once it is summed; see `cast_layer`.  The
            network then computes under autocast.
    """
    for name, layer in list(module.named_modules()):
        if not isinstance(layer, LoraLayer) or is_gated(layer):
            continue
        merged = _base_layer(layer)
        weight = merged.weight.detach().float() + layer.get_delta_weight(ADAPTER).detach().float()
        merged.weight = nn.Parameter(weight, requires_grad=False)
        if merged.bias is not None:
            merged.bias = nn.Parameter(merged.bias.detach().float(), requires_grad=False)
        cast_layer(merged, dtype)  # at once: a whole network in float32 takes twice the memory
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, merged)
    layer_of = {half[ADAPTER]: _base_layer(left) for left in lora_layers(module) for half in (left.lora_A, left.lora_B)}
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            cast_layer(layer, dtype, layer_of.get(layer))
    return module


def cast_layer(layer: nn.Conv2d | nn.Linear, dtype: torch.dtype, lora_of: nn.Module | None = None) -> None:
    """Cast a layer's weights for inference in a lower precision; float32 leaves them as they are.

    Convolutions from and to pixels or latents compute in float32, whatever the autocast: they are cheap, and the
    one-step estimate multiplies what rounding their few channels costs.

    Args:
        layer: to cast.
        dtype: to which.
        lora_of: the layer that it is one half of a LoRA of, whose channels count then.
    """
    if dtype == torch.float32:
        return
    judged = lora_of or layer
    if isinstance(judged, nn.Conv2d) and min(judged.in_channels, judged.out_channels) <= FEW_CHANNELS:
        layer.float()  # a frozen weight may be stored in bfloat16
        replace_forward(layer, _forward_in_float32)
    else:
        layer.to(dtype)


def _forward_in_float32(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return _class_forward(layer, x.float())


def store_in_bfloat16(module: nn.Module, keep: nn.Module | None = None) -> None:
    """Store the frozen weights of convolutions and linear layers as bfloat16: half of their memory; in place.

    Under bfloat16 autocast they are used as they are.  Elsewhere each call makes a float32 copy, which autograd holds
    until the backward pass: float32 training saves memory only with checkpointing.  Norms and biases, a
    thousandth of the weights, stay float32.

    Args:
        module: network whose trained weights require a gradient and whose frozen ones do not.
        keep: a layer of it that stays as it is.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and not layer.weight.requires_grad and layer is not keep:
            layer.weight.data = layer.weight.data.to(torch.bfloat16)  # the parameter may be shared: it stays the same
            replace_forward(layer, _forward_from_bfloat16)


def _forward_from_bfloat16(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    if torch.is_autocast_enabled(x.device.type):
        return _class_forward(layer, x)
    weight = layer.weight.to(x.dtype)
    if isinstance(layer, nn.Conv2d):
        return layer._conv_forward(x, weight, layer.bias)
    return F.linear(x, weight, layer.bias)


def share_parameters(module: Network) -> Network:
    """A second module tree over the SAME parameters and buffers: what is added to one tree is not in the other."""
    memo = {id(t): t for t in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, memo)


def trainable_names(module: nn.Module) -> list[str]:
    """Sorted names of all tensors that train: what is optimised, saved and loaded."""
    return sorted(name for name, p in module.named_parameters() if p.requires_grad)


def lora_tensors(module: nn.Module, factor: float) -> Iterator[tuple[str, str, Tensor]]:
    """LoRA of a module as (layer's name, "lora_A" or "lora_B", float32 copy), `lora_B` times a factor."""
    for name, tensor in module.state_dict().items():
        layer, found, half = name.removesuffix(f".{ADAPTER}.weight").rpartition(".lora_")
        if found:
            yield layer, f"lora_{half}", float_copy(tensor) * (factor if half == "B" else 1)


def float_copy(tensor: Tensor) -> Tensor:
    """A detached, contiguous float32 copy on the CPU."""
    return tensor.detach().float().cpu().contiguous()
