"""``make export``: an adapter as ONNX or OpenVINO models, as a page, as a released .pkl, or as diffusers' LoRA."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from commands.cli.errors import user_errors
from commands.cli.paths import check_checkpoint
from commands.cli.recipes import Settings, base_source
from commands.cli.trust import limit_parser
from commands.evaluate import build_data, build_scorer, run_config
from exporting import site_files
from images.listing import list_images
from inference.backends import check_precision
from inference.backends.exported import CARD, EXPORTS, NAMES
from limits import Range, check_range
from storage import atomic_write, check_replaceable, check_writable

if TYPE_CHECKING:
    from torch import Tensor

    from exporting.export import Samples
    from exporting.parity import Figures
    from images.ranges import Array
    from networks import OneStepGenerator
    from networks.checkpoints.card import Adapter

MODELS = {**EXPORTS, "web": EXPORTS["onnx"]}  # precisions by format
FORMATS = ("released", "released-stochastic", "diffusers", *MODELS)
FOR_MODELS = ("precision", "direction", "n", "data", "prompt", "trust")  # options of MODELS alone
ONNX = ("onnx", "onnxscript", "onnxruntime")
PACKAGES = {"onnx": ONNX, "web": ONNX, "openvino": ("openvino",), "int8": ("nncf",)}
ALL_DIRECTIONS = ("a2b", "b2a")
CALIBRATION = 32  # images for the ranges of int8
OFFLINE = "lite0"  # feature network where no run names one


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(
        prog="one-step export",
        description="Write an adapter in another format. onnx, openvino: a folder that translate and evaluate take "
        "like an adapter and that needs no PyTorch, with its measured difference to PyTorch (parity.json). web: a "
        "folder with a page that translates in the browser. released: released.pkl, paired for one direction, unpaired "
        "for two; released-stochastic: paired, for a strength below 1; diffusers: pytorch_lora_weights.safetensors of "
        "the UNet, and conv_in.safetensors; what these cannot hold is said.",
        allow_abbrev=False,
    )
    p.add_argument(
        "--ckpt",
        required=True,
        metavar="PATH",
        help="run folder, adapter folder, .ckpt, released .pkl, pocket:NAME, or owner/name[@revision] on the hub",
    )
    p.add_argument("--format", required=True, choices=FORMATS, help="which")
    p.add_argument(
        "--out", required=True, metavar="FOLDER", help="made if missing; an earlier export in it is replaced"
    )
    p.add_argument("--base", metavar="BASE", help="where the base is, if not where training found it")
    models = p.add_argument_group("of onnx, openvino and web")
    models.add_argument("--precision", metavar="NAME", help="float32 (default); openvino also bfloat16 and int8")
    models.add_argument("--direction", metavar="NAME", help="a2b, b2a, or both (default: all that were trained)")
    models.add_argument("--n", type=int, metavar="N", help="images to measure the difference on (default 16)")
    models.add_argument("--data", metavar="FOLDER", help="of these images; default: the run's own test images")
    models.add_argument("--prompt", metavar="TEXT", help="for an adapter that names none, such as a .pkl")
    models.add_argument("--trust", metavar="MODULES", help="of your own that the run may use: mine,other.part")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    own = parser().parse_args(args)
    own.base = base_source(own.base)
    own.ckpt = check_checkpoint(own.ckpt)
    out = Path(own.out).expanduser()
    if own.format in MODELS:
        return export_models(own, out)
    for name in FOR_MODELS:
        if getattr(own, name) is not None:
            raise ValueError(f"FORMAT={own.format} takes no {name.upper()}: only {', '.join(MODELS)} do.")
    check_writable(out / CARD)
    lost = export_weights(own.ckpt, own.base, own.format, out)
    _print_sizes(sorted(p for p in out.iterdir() if p.suffix in (".pkl", ".safetensors")))
    for phrase in lost:
        print(f"this format cannot hold {phrase}")
    return 0


def _print_sizes(paths: Sequence[Path]) -> None:
    for path in paths:
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def export_weights(ckpt: str, base: str | None, wanted: str, out: Path) -> list[str]:
    """Write an adapter in a format of weights, with an adapter.json beside it.

    Returns:
        What the format cannot hold.

    Raises:
        ValueError: the adapter cannot be read, or is of a plain network.
    """
    # These take seconds to import: errors before come at once.
    from networks import OneStepGenerator, load_generator
    from networks.checkpoints.adapter import read_adapter
    from networks.checkpoints.card import AdapterCard
    from storage import write_json

    adapter = read_adapter(ckpt)
    generator = load_generator(adapter, base)
    if not isinstance(generator, OneStepGenerator):
        raise ValueError(f"{ckpt} is a plain ResNet: of the formats, {', '.join(MODELS)} hold it.")
    lost = _write_weights(generator, wanted, out)
    exported = {"format": wanted, "cannot_hold": lost}
    card = adapter.card
    write_json(out / CARD, AdapterCard.of(generator, card.run, card.metrics, card.best, exported).to_json())
    return lost


def _write_weights(generator: "OneStepGenerator", wanted: str, out: Path) -> list[str]:
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


def export_models(own: argparse.Namespace, out: Path) -> int:
    """Write ONNX or OpenVINO models, or a page, and measure them; returns the exit code, 1 where they differ too much.

    Args:
        own: arguments of this command.
        out: folder to write.

    Raises:
        ValueError: an option, the adapter or its data cannot be used.
    """
    check_models(own, out)
    path = Path(own.ckpt)
    trust = [*filter(None, (own.trust or "").split(","))]
    config = run_config(path, trust)
    if config is None and own.data is None:
        raise ValueError(
            f"{path} is not part of a run (no config.yaml), so it has no test images to measure the difference to "
            "PyTorch on: give a folder of images (DATA=)."
        )
    if config is None and not list_images(own.data):
        raise FileNotFoundError(f"No images in {own.data} to measure the difference to PyTorch on (DATA=).")
    if config is not None:
        limit_parser(trust)
    # These take seconds to import: errors before come at once.
    from exporting.export import Format, export_folder
    from exporting.parity import BeyondToleranceError
    from networks.checkpoints.adapter import read_adapter

    adapter = read_adapter(path)
    trained = adapter.card.settings.directions
    directions = trained if own.direction in (None, "both") else (own.direction,)
    if unknown := [direction for direction in directions if direction not in trained]:
        raise ValueError(f"Unknown direction {unknown[0]!r}: {path} translates {' and '.join(trained)}.")
    if own.prompt is not None:
        adapter = _with_prompt(adapter, directions, own.prompt)
    samples = _from_folder(adapter, own, directions) if config is None else _from_run(config, own, directions)
    try:
        if own.format == "web":
            from exporting.web import write_page

            figures = write_page(adapter, own.base, out, directions, samples, _say)
        else:
            wanted = Format(own.format, own.precision, directions)
            figures = export_folder(adapter, own.base, out, wanted, samples, _say)
    except BeyondToleranceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for direction, found in figures.items():
        print(f"{direction}: {_in_words(found)}")
    if own.format == "web":
        size = sum(file.stat().st_size for file in out.iterdir()) / 2**20
        print(f"Written: a page of {size:.1f} MiB. `python -m http.server --directory {out}` serves it at port 8000.")
    else:
        _print_sizes(sorted(out.iterdir()))
        print(f"Written: {own.format} in {own.precision}. `make translate CKPT={out}` uses it.")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def check_models(own: argparse.Namespace, out: Path) -> None:
    """Check the options of ONNX, OpenVINO and web, and fill in what was left out.

    Raises:
        ValueError: one is invalid, a package or npm is missing, or the folder cannot be written.
    """
    own.precision = own.precision or "float32"
    check_precision(own.precision, EXPORTS["openvino"])
    if own.precision not in MODELS[own.format]:
        there = "; ".join(f"FORMAT={name} has {', '.join(known)}" for name, known in MODELS.items())
        raise ValueError(f"There is no PRECISION={own.precision} of FORMAT={own.format}: {there}.")
    if own.direction not in (None, "both", *ALL_DIRECTIONS):
        raise ValueError(f"Unknown DIRECTION {own.direction!r}: known are a2b, b2a and both.")
    own.n = 16 if own.n is None else own.n
    check_range("N", own.n, Range(1, 100_000, whole=True))
    if own.data is not None and not Path(own.data).is_dir():
        raise FileNotFoundError(f"There is no folder {own.data} (DATA=).")
    needed = PACKAGES[own.format] + PACKAGES.get(own.precision, ())
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ValueError(f"{' and '.join(missing)} is not installed: pip install -e '.[export]' adds it.")
    check_replaceable(out, (site_files.NAMES if own.format == "web" else NAMES).__contains__)
    if own.format == "web":
        site_files.fetch_runtime()


def _with_prompt(adapter: "Adapter", directions: Sequence[str], prompt: str) -> "Adapter":
    """The adapter with a prompt where it names none.

    Raises:
        ValueError: it names one, or there are two directions.
    """
    if adapter.card.prompts or len(directions) != 1:
        why = "names its own prompts" if adapter.card.prompts else "translates in two: say which (DIRECTION=)"
        raise ValueError(f"PROMPT is for one direction of an adapter that names no prompt; {adapter.path} {why}.")
    return replace(adapter, card=replace(adapter.card, prompts={directions[0]: prompt}))


def _from_run(config: Settings, own: argparse.Namespace, directions: Sequence[str]) -> "Samples":
    """The test images of a run, and its validation images to calibrate on."""
    from exporting.export import Samples
    from exporting.parity import ENOUGH
    from networks.features import load_features

    data = build_data(config, own.data)
    scorer = build_scorer(config, {"statistics": None})
    images: dict[str, list[Array]] = {}
    calibration: dict[str, list[Array]] = {}
    real: dict[str, list[Tensor]] = {}
    for direction in data.directions:
        if direction not in directions:
            continue
        test, validation = (data.evaluation_set(direction, stage) for stage in ("test", "validate"))
        if len(test) < own.n:
            print(f"{direction}: the test split has {len(test)} images, so N={own.n} is {len(test)}.")
        images[direction] = [test[k]["real"].numpy() for k in range(min(own.n, len(test)))]
        if own.precision == "int8":
            calibration[direction] = [validation[k]["real"].numpy() for k in range(min(CALIBRATION, len(validation)))]
        if len(images[direction]) >= ENOUGH:
            real[direction] = [batch.real for batch in data.reference_dataloader(direction, "test")]
    features = load_features(scorer.names["features"], resize=scorer.resize) if real else None
    print(f"data: {data.description}")
    return Samples(images, load_features(scorer.names["lpips"]), features, calibration, real)


def _from_folder(adapter: "Adapter", own: argparse.Namespace, directions: Sequence[str]) -> "Samples":
    """Images of a folder for every direction, at the size of the adapter's evaluation.

    The next ones calibrate; where there are none, the same.
    """
    from exporting.export import Samples
    from exporting.parity import ENOUGH
    from inference.processing import Preprocessing
    from networks.features import load_features

    size = (adapter.card.run.preprocessing or {}).get("eval_size")
    preprocessing = Preprocessing(size if isinstance(size, int) else None)
    files = list_images(own.data)
    used, further = files[: own.n], files[own.n : own.n + CALIBRATION]
    images = [preprocessing.read(path)[0] for path in used]
    calibration = [preprocessing.read(path)[0] for path in further] if own.precision == "int8" else []
    network = load_features(OFFLINE)
    return Samples(
        dict.fromkeys(directions, images),
        network,
        network if len(images) >= ENOUGH else None,
        dict.fromkeys(directions, calibration or images),
    )


def _in_words(figures: "Figures") -> str:
    line = (
        f"over {figures['images']} images at most {figures['max_difference']:.0f} of 255 and in the mean "
        f"{figures['mean_difference']:.3f} from PyTorch, LPIPS {figures['lpips']:.4f}; "
        f"{figures['seconds_per_image']:.3g} s per image, PyTorch in float32 {figures['seconds_per_image_pytorch']:.3g}"
    )
    return line + (f"; FID {figures['fid']:.2f}, of PyTorch {figures['fid_pytorch']:.2f}" if "fid" in figures else "")


if __name__ == "__main__":
    raise SystemExit(main())
