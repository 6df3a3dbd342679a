"""Read pretrained networks of diffusers and transformers: whole, finite, and at memory that their files account for."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import diffusers.utils.logging
import torch
import transformers.utils.logging
from safetensors import safe_open
from torch import nn

from networks.checkpoints.weights import check_weights, readable
from storage import read_json, shortened

Made = TypeVar("Made")
Network = TypeVar("Network", bound=nn.Module)

MAX_LAYERS = 64  # per entry of a config; CLIP bigG has 32
MAX_WEIGHTS = 5_000_000_000  # SDXL's UNet has 2.6e9
MAX_STEPS = 100_000  # of a schedule; Stable Diffusion has 1000
DEPTHS = (
    *("layers_per_block", "transformer_layers_per_block", "reverse_transformer_layers_per_block"),
    "num_hidden_layers",
)
FLOATS = ("F64", "F32", "F16", "BF16")
COUNTERS = ("position_ids", "num_batches_tracked")  # integers in the files of CLIP and of batch norms
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def read_network(kind: type[Network], pretrained_model_name_or_path: str, **options: Any) -> Network:
    """Read a network by its `from_pretrained`, without progress bars and reports.

    Args:
        kind: a network class of diffusers or transformers.
        pretrained_model_name_or_path: folder or hub id.
        options: further arguments of `from_pretrained`.

    Raises:
        ValueError: weights are missing, which the library would leave at random values, or are NaN or infinite.
        OSError: nothing can be read there.
    """
    source = pretrained_model_name_or_path
    reader: Any = kind  # neither library annotates that `from_pretrained` may return a report beside the network
    with quiet():
        network, report = reader.from_pretrained(source, output_loading_info=True, **options)
    absent = sorted(key for key in report["missing_keys"] if not key.endswith(COUNTERS))
    if absent:
        raise ValueError(f"{source} lacks {len(absent)} tensors of {kind.__name__}, first {readable(absent[0])}")
    check_weights(dict(network.named_parameters()), source)
    assert isinstance(network, kind)
    return network


def check_folder(folder: Path, build: Callable[[Mapping[str, Any]], nn.Module] | None, random_init: bool) -> None:
    """Check the files of one part of a base, in a folder of Hugging Face layout, before anything is built from them.

    Args:
        folder: holds config.json, and the weights as safetensors.
        build: network of a config, for parts that are networks.
        random_init: whether the weights are not read.

    Raises:
        ValueError: a JSON file is damaged or too large; the config describes a network that its files cannot fill, or
            that is too large to be meant; weights are pickled or hold integers.
    """
    contents = {path.name: read_json(path) for path in sorted(folder.glob("*.json"))}
    steps = contents.get("scheduler_config.json", {}).get("num_train_timesteps", 1)
    if not isinstance(steps, int) or not 0 < steps <= MAX_STEPS:
        raise ValueError(f"{folder}: num_train_timesteps is {shortened(steps)}, not a number up to {MAX_STEPS:,}")
    if build is None:
        return
    _check_depth(contents.get("config.json", {}), folder)
    with torch.device("meta"):
        count = sum(tensor.numel() for tensor in build(contents["config.json"]).state_dict().values())
    most, origin = MAX_WEIGHTS, "more than any network of this kind"
    if not random_init:
        files = sorted(folder.glob("*.safetensors"))
        if not files and (pickled := [path.name for pattern in PICKLES for path in folder.glob(pattern)]):
            raise ValueError(
                f"{folder / pickled[0]} is a pickle, which could run code: give its weights as safetensors (`hf "
                "download` gets them where the hub has them; else save_pretrained of diffusers or transformers writes "
                "them, from files that you trust)"
            )
        for path in files:
            _check_kinds(path)
        most = sum(path.stat().st_size for path in files)
        origin = f"more than fit into the {most:,} bytes of its files"
    if count > most:
        raise ValueError(f"{folder / 'config.json'} describes a network of {count:,} weights, {origin}")


def _check_depth(config: Mapping[str, Any], folder: Path) -> None:
    """Refuse a config of so many layers that listing them would take minutes.

    Raises:
        ValueError: names the entry.
    """
    for key, value in config.items():
        layers = value if isinstance(value, list) else [value] if key in DEPTHS else []
        flat = [n for entry in layers for n in (entry if isinstance(entry, list) else [entry])]
        if len(flat) > MAX_LAYERS or (key in DEPTHS and any(isinstance(n, int) and n > MAX_LAYERS for n in flat)):
            raise ValueError(f"{folder}: {readable(key)} is {shortened(value)}, more than {MAX_LAYERS} layers")


def _check_kinds(path: Path) -> None:
    with safe_open(path, "pt") as file:
        for name in file.keys():  # it is no mapping
            kind = file.get_slice(name).get_dtype()
            if kind not in FLOATS and not name.endswith(COUNTERS):
                raise ValueError(f"{path} holds {kind} numbers in {readable(name)}, not floats")


@contextmanager
def quiet() -> Iterator[None]:
    """Context without progress bars and reports of reading weights from disk; downloads keep their bars."""
    libraries: list[Any] = [diffusers.utils.logging, transformers.utils.logging]
    levels = [library.get_verbosity() for library in libraries]
    hook = transformers.utils.logging.set_tqdm_hook(_hidden_while_loading)
    for library in libraries:
        library.set_verbosity_error()
    try:
        yield
    finally:
        transformers.utils.logging.set_tqdm_hook(hook)
        for library, level in zip(libraries, levels, strict=True):
            library.set_verbosity(level)


def _hidden_while_loading(factory: Callable[..., Made], args: tuple[object, ...], kwargs: dict[str, object]) -> Made:
    hidden = {"disable": True} if kwargs.get("desc") == "Loading weights" else {}
    return factory(*args, **{**kwargs, **hidden})
