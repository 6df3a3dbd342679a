"""Frozen feature networks: the base class and its kinds; `features.load_features` builds them with their weights."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from networks.features.resizing import RESIZERS
from storage import digest

if TYPE_CHECKING:  # imported only where such a network is built
    from timm.models.efficientnet import EfficientNet
    from transformers import CLIPModel, ViTModel

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

Trunk = TypeVar("Trunk", bound=nn.Module)
Found = TypeVar("Found", Tensor, list[Tensor])


class Features(NamedTuple):
    """The output of one forward pass of a feature network; None or empty where the network lacks it.

    Attributes:
        stages: feature maps, finest first, each `(B, C_k, h_k, w_k)`.
        embedding: one vector per image, `(B, D)`.
        keys: one vector per image position, `(B, T, C)`, whose self-similarity describes the structure: DINO's keys of
            the last layer, or the cells of one stage of a convolutional network.
    """

    stages: list[Tensor]
    embedding: Tensor | None = None
    keys: Tensor | None = None


_described: ContextVar[dict[tuple[object, ...], tuple[Tensor, Features]] | None] = ContextVar("described", default=None)


@contextmanager
def described_once() -> Iterator[None]:
    """Context of a training step in which networks of the same weights describe each image once.

    An image is recognised by its place in memory, so a batch and its images are different ones.  The features of an
    image with a graph serve its `detach()` too, without graph.
    """
    token = _described.set({})
    try:
        yield
    finally:
        _described.reset(token)


class FeatureNetwork(nn.Module, Generic[Trunk]):
    """A frozen network: images to features, float32 whatever the autocast, differentiable in the image only.

    The trunk is kept out of the module tree: it follows `.to(device)`, but its weights are in no `parameters()`,
    `state_dict()` or checkpoint, no `train()` or `.bfloat16()` reaches it, and DDP and optimisers do not see it.

    Args:
        name: the name shown with every number that depends on this network.
        trunk: the network proper; frozen here.
        stage_channels: channels of each of `stages`.
        width: length of `embedding`; None where the network has none.
        discriminator_stages: the two stages that a vision-aided discriminator has heads on.
        mean_std: normalisation of images in [0, 1], per channel; None leaves [-1, 1].
        heads: trained channel weights of LPIPS, `(C_k,)` per stage; None where there are none.

    Attributes:
        hash: first 12 hex digits of the sha256 of the trunk's weights.
        resize: a name of `RESIZERS`, by which images become squares of `side` pixels; None leaves their size, or
            resizes them as `describe` says.
        weights: file or folder that the weights were read from; None for the usual source of this name.
    """

    mean: Tensor
    std: Tensor
    resize: str | None = None
    weights: str | None = None
    side = 224

    def __init__(
        self,
        name: str,
        trunk: Trunk,
        stage_channels: tuple[int, ...] = (),
        width: int | None = None,
        discriminator_stages: tuple[int, ...] = (),
        mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        heads: list[Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self.stage_channels = stage_channels
        self.width = width
        self.discriminator_stages = discriminator_stages
        self._hidden: list[Trunk] = [trunk.float().eval().requires_grad_(False)]  # in a list: no registered sub-module
        # a meta tensor belongs to a network that is counted and never run: it has no values
        weights = itertools.takewhile(lambda tensor: not tensor.is_meta, trunk.state_dict().values())
        self.hash = digest((tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in weights), digits=12)
        mean, std = mean_std or ((0.5,) * 3, (0.5,) * 3)
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        self._heads = [] if heads is None else [head.detach().float().view(1, -1, 1, 1) for head in heads]

    @property
    def trunk(self) -> Trunk:
        """The frozen network itself."""
        return self._hidden[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "FeatureNetwork":
        def move(tensor: Tensor) -> Tensor:  # devices are followed, changes of precision are not
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        self.trunk._apply(move)
        self._heads = [move(head) for head in self._heads]
        return super()._apply(move, recurse)

    def forward(self, image: Tensor) -> Features:
        """Describe images.

        Args:
            image: `(B, 3, H, W)` in [-1, 1].

        Raises:
            ValueError: if `image` has another shape.
        """
        if image.dim() != 4 or image.shape[1] != 3:
            raise ValueError(f"Feature network '{self.name}' takes images (B, 3, H, W), got {tuple(image.shape)}.")
        known = _described.get()
        if known is None:
            return self._features(image)
        place = image.untyped_storage()._cdata, image.storage_offset(), image.shape, image.stride(), image._version
        key = self.name, self.hash, *place, image.requires_grad and torch.is_grad_enabled()
        if key not in known:
            with_graph = known.get((*key[:-1], True))
            found = self._features(image) if with_graph is None else _detached(with_graph[1])
            known[key] = image, found  # the image is kept, so that no other one takes its place in memory
        return known[key][1]

    def _features(self, image: Tensor) -> Features:
        with torch.autocast(image.device.type, enabled=False):
            image = image.float() if self.resize is None else RESIZERS[self.resize](image.float(), self.side)
            unit = (image + 1) / 2  # [-1, 1] => [0, 1]
            normalised = (unit - self.mean) / self.std
            # Depthwise convolutions are faster in this layout on CPUs.
            return self.describe(normalised.contiguous(memory_format=torch.channels_last))

    def describe(self, normalised: Tensor) -> Features:
        """Features of normalised images `(B, 3, H, W)`; subclasses implement it."""
        raise NotImplementedError

    def stages(self, image: Tensor) -> list[Tensor]:
        """Feature maps `(B, C_k, h_k, w_k)` of `image` `(B, 3, H, W)` in [-1, 1], finest first."""
        return self.require("stages", self(image).stages)

    def embedding(self, image: Tensor) -> Tensor:
        """One vector per image, `(B, D)`, of `image` `(B, 3, H, W)` in [-1, 1]."""
        return self.require("embedding", self(image).embedding)

    def keys(self, image: Tensor) -> Tensor:
        """One vector per position, `(B, T, C)`, of `image` `(B, 3, H, W)` in [-1, 1]; see `Features.keys`."""
        return self.require("keys", self(image).keys)

    def distance(self, stages: list[Tensor], others: list[Tensor]) -> Tensor:
        """Perceptual distance of two images given their stages (LPIPS; Zhang et al. 2018, Eq. 1).

        Channel vectors are scaled to unit length, their squared differences weighted by the trained heads and averaged
        over positions; stages are summed.  Networks without trained heads weigh every channel by `1 / C_k`.

        Args:
            stages: of the first images, as from `stages()`.
            others: of the second images, same shapes.

        Returns:
            `(B,)`, 0 for equal stages; lower is closer.
        """
        total = torch.zeros(stages[0].shape[0], device=stages[0].device)
        for k, (a, b) in enumerate(zip(stages, others, strict=True)):
            # vector_norm, because its gradient at an all-zero vector is 0, not NaN
            a, b = (x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10) for x in (a, b))
            weight = self._heads[k] if self._heads else 1 / a.shape[1]
            total = total + ((a - b).square() * weight).sum(dim=1).mean(dim=(1, 2))
        return total

    def require(self, what: str, value: Found | None) -> Found:
        """`value`, one of the `Features` of this network.

        Raises:
            ValueError: if it is None or empty: this network has none, and another must be chosen.
        """
        if value is None or len(value) == 0:
            raise ValueError(f"Feature network '{self.name}' has no {what}; choose another network for this purpose.")
        return value


def _detached(found: Features) -> Features:
    stages = [stage.detach() for stage in found.stages]
    return Features(stages, *(None if one is None else one.detach() for one in found[1:]))


class LiteFeatures(FeatureNetwork["EfficientNet"]):
    """EfficientNet-Lite (Tan and Le 2019): five stages at strides 2, 4, 8, 16, 32 and the pooled head."""

    _TAPS = (0, 1, 2, 4, 6)

    def __init__(self, name: str, trunk: "EfficientNet") -> None:
        from timm.data import resolve_model_data_config

        channels = tuple(info["num_chs"] for info in trunk.feature_info)
        super().__init__(name, trunk, channels, trunk.num_features, discriminator_stages=(2, 3))
        _fold_batch_norms(trunk)  # after the hash, which is of the weights as they were read
        self.side = resolve_model_data_config(trunk)["input_size"][-1]

    def describe(self, normalised: Tensor) -> Features:
        """Stages, pooled embedding, and the cells of the stride-16 stage as keys."""
        hidden = self.trunk.bn1(self.trunk.conv_stem(normalised))
        stages = []
        for k, block in enumerate(self.trunk.blocks):
            hidden = block(hidden)
            if k in self._TAPS:
                stages.append(hidden)
        pooled = self.trunk.bn2(self.trunk.conv_head(hidden)).mean(dim=(2, 3))
        return Features(stages, pooled, stages[3].flatten(2).mT)


def _fold_batch_norms(network: nn.Module) -> None:
    """Fold each frozen batch norm into the convolution before it; in place; timm's norms keep their activation."""
    for parent in list(network.modules()):
        layers = [(name, layer) for name, layer in parent.named_children() if not isinstance(layer, nn.Identity)]
        for (name, conv), (norm_name, norm) in itertools.pairwise(layers):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(parent, name, fuse_conv_bn_eval(conv, norm))
                setattr(parent, norm_name, getattr(norm, "act", nn.Identity()))


class ConvFeatures(FeatureNetwork[nn.Sequential]):
    """A chain of layers whose outputs after some of them are the stages: VGG16, AlexNet, and the random network.

    Args:
        name: see `FeatureNetwork`.
        trunk: the layers in order.
        taps: positions of the layers whose outputs are stages.
        pooled: whether the last stage's mean over positions is an embedding.
        mean_std: see `FeatureNetwork`.
        heads: see `FeatureNetwork`.
    """

    def __init__(
        self,
        name: str,
        trunk: nn.Sequential,
        taps: tuple[int, ...],
        pooled: bool = False,
        mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
        heads: list[Tensor] | None = None,
    ) -> None:
        layers = list(trunk)
        convs = [[layer for layer in layers[: tap + 1] if isinstance(layer, nn.Conv2d)][-1] for tap in taps]
        channels = tuple(conv.out_channels for conv in convs)
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # a stage must not be overwritten by a later layer
        last_two = (len(taps) - 2, len(taps) - 1)
        super().__init__(name, trunk, channels, channels[-1] if pooled else None, last_two, mean_std, heads)
        self._taps = taps

    def describe(self, normalised: Tensor) -> Features:
        """Stages; the embedding where the network is pooled; the cells of the last stage as keys."""
        stages, hidden = [], normalised
        for k, layer in enumerate(self.trunk.children()):
            hidden = layer(hidden)
            if k in self._taps:
                stages.append(hidden)
        return Features(stages, stages[-1].mean(dim=(2, 3)) if self.width else None, stages[-1].flatten(2).mT)


class InceptionFeatures(FeatureNetwork[nn.Module]):
    """FID's InceptionV3 (torch-fidelity's port), on images resized as clean-fid does."""

    resize = "clean"
    side = 299

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__("inception", trunk, width=2048)

    def describe(self, normalised: Tensor) -> Features:
        """The 2048 pooled features."""
        # torch-fidelity's own forward takes 8-bit images only; clean-fid does not round resized ones
        hidden = (normalised * 127.5 - 0.5) / 128
        for layer in list(self.trunk.children())[:-1]:  # the last one is the classifier
            hidden = layer(hidden)
        return Features([], hidden.flatten(1))


class ClipFeatures(FeatureNetwork["CLIPModel"]):
    """CLIP (Radford et al. 2021): token maps after two blocks, and unnormalised embeddings of image and caption.

    Args:
        trunk: a transformers `CLIPModel`.
        tokenizer: turns captions into `input_ids` and `attention_mask`.
        blocks: the blocks after which token maps are taken (METHOD: 4 and 8 of 12).
    """

    def __init__(
        self, trunk: "CLIPModel", tokenizer: Callable[..., Mapping[str, Tensor]], blocks: tuple[int, int] = (4, 8)
    ) -> None:
        vision = trunk.config.to_dict()["vision_config"]
        channels = (vision["hidden_size"],) * len(blocks)
        super().__init__("clip", trunk, channels, trunk.config.projection_dim, (0, 1), CLIP)
        self._tokenizer, self._blocks = tokenizer, blocks
        self.side, self._tokens = vision["image_size"], vision["image_size"] // vision["patch_size"]

    def describe(self, normalised: Tensor) -> Features:
        """Token maps `(B, C, 7, 7)` and the projected embedding of the bicubically resized image."""
        pixels = F.interpolate(normalised, (self.side, self.side), mode="bicubic", antialias=True)
        out = self.trunk.vision_model(pixel_values=pixels, output_hidden_states=True)
        # hidden_states[0] is the input of block 1; the first token is the class token
        maps = [out.hidden_states[k][:, 1:].mT.unflatten(2, (self._tokens, self._tokens)) for k in self._blocks]
        return Features([m.contiguous() for m in maps], self.trunk.visual_projection(out.pooler_output))

    def text_embedding(self, captions: list[str]) -> Tensor:
        """Embeddings `(N, D)` of captions; what exceeds the tokenizer's `model_max_length` is cut off."""
        tokens = self._tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
        device = self.mean.device
        with torch.autocast(device.type, enabled=False):
            out = self.trunk.text_model(
                input_ids=tokens["input_ids"].to(device), attention_mask=tokens["attention_mask"].to(device)
            )
            return self.trunk.text_projection(out.pooler_output)


class DinoFeatures(FeatureNetwork["ViTModel"]):
    """DINO ViT (Caron et al. 2021): keys of the last layer, whose self-similarity describes structure (Tumanyan 2022).

    Args:
        trunk: a transformers `ViTModel`.
    """

    def __init__(self, trunk: "ViTModel") -> None:
        super().__init__("dino", trunk, width=trunk.config.hidden_size, mean_std=IMAGENET)
        config = trunk.config.to_dict()
        self.side, self._patch = config["image_size"], config["patch_size"]
        # the projection is called `key` or `k_proj`, by the version of transformers
        self._key_layer = [m for n, m in trunk.named_modules() if n.rpartition(".")[2] in ("key", "k_proj")][-1:]

    def describe(self, normalised: Tensor) -> Features:
        """Keys `(B, 1 + T, C)`, class token first, of the image at short side 224; the class token as embedding."""
        patch, (height, width) = self._patch, normalised.shape[2:]
        scale = self.side / min(height, width)
        size = [max(1, round(side * scale / patch)) * patch for side in (height, width)]
        pixels = F.interpolate(normalised, size, mode="bicubic", antialias=True)
        found: list[Tensor] = []
        hook = self._key_layer[0].register_forward_hook(lambda module, args, output: found.append(output))
        try:
            out = self.trunk(pixel_values=pixels, interpolate_pos_encoding=True)
        finally:
            hook.remove()
        return Features([], out.last_hidden_state[:, 0], found[0])
