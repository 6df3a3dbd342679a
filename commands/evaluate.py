"""``make evaluate``: metrics.json of a checkpoint, or of images that any other program made, on the test split."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from adapter_hub import hub_name
from commands.cli.errors import user_errors
from commands.cli.paths import check_checkpoint
from commands.cli.recipes import Settings, base_source, compose, names
from commands.cli.trust import limit_parser, read_run
from datamodules.files.layouts import existing_root
from images.listing import list_images
from inference.backends import check_precision
from inference.high_resolution import RESOLUTIONS
from limits import LIMITS, check_range
from packaged_adapters import FOLDER
from storage import check_writable, read_json, write_json

if TYPE_CHECKING:
    from torch import Tensor

    from datamodules import TranslationData
    from datamodules.batches import EvaluationBatch
    from evaluation.scorer import Scorer
    from inference.translator import Translator
    from networks.checkpoints.card import AdapterCard

RESIZE = ("clean", "legacy")  # names in networks.features.resizing.RESIZERS


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(prog="one-step evaluate", description=__doc__)
    p.add_argument(
        "--ckpt",
        required=True,
        metavar="PATH",
        help="run, adapter, pocket:NAME, .ckpt, released .pkl, exported model, or a folder of images",
    )
    p.add_argument("--data", metavar="FOLDER", help="images to translate and compare with; default: the run's own")
    p.add_argument(
        "--base", metavar="BASE", help="where the base is, if not where training found it; needed for a .pkl"
    )
    p.add_argument("--exp", metavar="NAME", help=f"for what is not a run: the task, one of {', '.join(names())}")
    p.add_argument("--trust", default="", metavar="MODULES", help="of your own that the run may use: mine,other.part")
    p.add_argument("--resize", choices=RESIZE, help="of images for FID and KID; default: the run's own way")
    p.add_argument("--out", metavar="FOLDER", help="folder of metrics.json; default: beside the checkpoint")
    p.add_argument(
        "--precision",
        metavar="NAME",
        help="float32 (default), bfloat16, or auto: by network and hardware; exports have theirs",
    )
    p.add_argument(
        "--size", type=int, metavar="PIXELS", help="short side of the images; default: the run's own eval_size"
    )
    p.add_argument(
        "--resolution",
        default="auto",
        choices=RESOLUTIONS,
        help="of images above the trained size: direct, lift or tiles; auto (default): what suits the adapter's task",
    )
    p.add_argument(
        "--device",
        default="auto",
        metavar="DEVICE",
        help="cpu, cuda, cuda:1, mps; default: the accelerator, if there is one",
    )
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    own = parser().parse_args(args)
    external = _holds_images(Path(own.ckpt))
    if not external:
        own.ckpt = check_checkpoint(own.ckpt)
    path = Path(own.ckpt)
    if own.precision is not None:
        check_precision(own.precision)
    if own.size is not None:
        check_range("SIZE", own.size, LIMITS["eval_size"])
    base = base_source(own.base)
    trust = [*filter(None, own.trust.split(","))]
    config = run_config(path, trust) if own.exp is None else compose(own.exp, own.base or "pocket").config
    if config is None:
        raise ValueError(
            f"{path} is not part of a run (no config.yaml), so its task is not known: "
            f"give EXP=, one of {', '.join(names())}."
        )
    written_beside = not external and path.suffix != ".pkl" and hub_name(path) is None and path.parent != FOLDER
    out = _out(path, own.out, written_beside)
    for name in ("metrics.json", "report.html"):
        check_writable(out / name)
    if own.data is not None:
        existing_root(own.data)
    own.base = base
    if own.exp is None:
        limit_parser(trust)
    measure(own, config, out, external)
    return 0


def scores_of(ckpt: str | Path, exp: str) -> dict[str, Any]:
    """The metrics.json of an adapter on the test split of an experiment; nothing is left on disk.

    Raises:
        ValueError: it cannot be evaluated; why has been printed.
    """
    with TemporaryDirectory() as folder:
        if main([f"--ckpt={ckpt}", f"--exp={exp}", f"--out={folder}"]):
            raise ValueError(f"{ckpt} cannot be measured.")
        return read_json(Path(folder) / "metrics.json")


def measure(own: argparse.Namespace, config: Settings, out: Path, external: bool) -> None:
    """Compute and write metrics.json and report.html.

    Args:
        own: arguments of this command, checked.
        config: configuration of the run or experiment.
        out: folder to write to.
        external: whether ``own.ckpt`` is a folder of images.

    Raises:
        ValueError: adapter, base, data or device cannot be used.
    """
    # These take seconds to import: errors above come at once.
    from commands.cli.training import describe
    from evaluation.evaluate import evaluate, with_training_figures
    from evaluation.external import ExternalTranslations
    from evaluation.report import write_report
    from evaluation.summary import summary
    from inference.backends.torch import pick_device
    from networks.checkpoints.card import RunFacts

    path = Path(own.ckpt)
    model = None if external else _open_model(own)
    data = build_data(config, own.data, own.size)
    # Without the cache of an ablation, whose folder may be gone.
    scorer = build_scorer(config, {"statistics": None} | ({"resize": own.resize} if own.resize else {}))
    device = pick_device(own.device)
    translate: Callable[[EvaluationBatch], Tensor]
    available: Sequence[str]
    if model is None:
        translate = ExternalTranslations(path, data.eval_size)
        available, training_features = [*translate.folders], []
        report: dict[str, Any] = {
            "pictures": str(path),
            "data": data.description,
            "preprocessing": data.preprocessing,
        }
    else:
        translator, card, trainable = model
        backend = translator.backend
        available = backend.directions
        training_features = list(card.run.training_features or ())
        run = RunFacts(data=data.description, data_is_rendered=data.is_rendered, preprocessing=data.preprocessing)
        report = {
            "images_seen": card.run.images_seen,
            "trainable_parameters": trainable,
            **describe(backend, run),
        }
        if (backend.name, backend.precision) != ("torch", "float32"):  # what a training's own test uses
            report |= {"backend": backend.name, "precision": backend.precision}
        layout = translator.layout("the test split", (data.eval_size, data.eval_size), resolution=own.resolution)
        if layout.mode != "direct":
            report["resolution"] = layout.mode
        print(
            f"base: {backend.base_description}\ncomputed by: {backend.name} in {backend.precision} on {backend.device}"
        )
        print(f"resolution: {layout}")

        def translate(batch: "EvaluationBatch") -> "Tensor":
            # A released .pkl holds no prompts.
            prompt = batch.captions or backend.prompts.get(batch.direction) or data.prompts.get(batch.direction)
            size = min(batch.real.shape[-2:])  # their own: these images are resized already
            translated: Tensor = translator(batch.real, batch.direction, prompt, size=size, resolution=own.resolution)
            return translated

    print(f"data: {data.description}\ndevice: {device}")
    directions = [direction for direction in data.directions if direction in available]
    blocks, records = evaluate(scorer, data, directions, translate, device, training_features)
    report = with_training_figures(out / "metrics.json", report | blocks)
    write_json(out / "metrics.json", report)
    write_report(out / "report.html", report, records, run_folder(path))
    print(summary(report))
    print(f"written: {out / 'metrics.json'}, report.html")


def _open_model(own: argparse.Namespace) -> "tuple[Translator, AdapterCard, int | None]":
    """The translator of an adapter or an exported model, its card, and the number of trained parameters if known."""
    from inference.backends.exported import MANIFEST
    from inference.backends.torch import TorchBackend
    from inference.translator import Translator
    from networks.checkpoints.adapter import CARD, read_adapter
    from networks.checkpoints.card import CARD_BYTES, AdapterCard

    path = Path(own.ckpt)
    if (path / MANIFEST).is_file():
        translator = Translator.load(path, own.precision or "auto", own.device, own.base)
        return translator, AdapterCard.from_json(read_json(path / CARD, CARD_BYTES), str(path / CARD)), None
    adapter = read_adapter(path)
    backend = TorchBackend(adapter, own.precision or "float32", own.device, own.base)
    return Translator(backend), adapter.card, backend.trained_parameters


def _holds_images(path: Path) -> bool:
    """Whether this is a folder of images, and no run or adapter."""
    return path.is_dir() and not any(path.glob("**/adapter.json")) and bool(list_images(path))


def run_folder(path: Path) -> Path | None:
    """The run folder of a checkpoint or adapter; None if it is not part of a run."""
    if hub_name(path) is not None:
        return None
    folders = (path, *path.absolute().parents[:2])
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def run_config(path: Path, trust: Sequence[str]) -> Settings | None:
    """The configuration that an adapter was trained with; None where nothing tells.

    Args:
        path: of a checkpoint or adapter; a packaged one's is that of its experiment.
        trust: see `read_run`.
    """
    if path.parent == FOLDER:
        return compose(path.name, "pocket").config
    run = run_folder(path)
    return None if run is None else read_run(run / "config.yaml", trust)


def build_data(config: Settings, root: str | None, eval_size: int | None = None) -> "TranslationData":
    """The data module of a whole configuration, on another folder or at another size of evaluation if one is given.

    Raises:
        ValueError: its class is not found, or it cannot use its settings.
    """
    from commands.cli.lightning_cli import build_section
    from commands.cli.processes import most_workers
    from datamodules import TranslationData

    section = config["data"]
    changes = {"root": root, "eval_size": eval_size}
    init_args = section.get("init_args", {}) | {name: value for name, value in changes.items() if value}
    if root:  # in place of both folders of a run that had two
        init_args.pop("root_b", None)
    if isinstance(workers := init_args.get("num_workers"), int):
        init_args["num_workers"] = min(workers, most_workers())  # the training's machine may have been a larger one
    data = build_section(TranslationData, "data", section | {"init_args": init_args})
    assert isinstance(data, TranslationData)
    return data


def build_scorer(config: Settings, changes: Settings) -> "Scorer":
    """The scorer of a whole configuration, with some settings changed.

    Raises:
        ValueError: a setting is unknown or of another type.
    """
    from commands.cli.lightning_cli import build_section
    from evaluation.scorer import Scorer

    scorer = build_section(Scorer, "evaluation", config.get("evaluation", {}) | changes)
    assert isinstance(scorer, Scorer)
    return scorer


def _out(path: Path, given: str | None, beside: bool) -> Path:
    if given:
        return Path(given)
    if not beside:
        raise ValueError(f"Say where metrics.json of {path} should go: OUT=folder.")
    if path.is_file():  # RUN/checkpoints/x.ckpt: the run's own metrics.json is the last state's
        return path.parent / path.stem
    return path.parent if path.name == "adapter" and (path.parent / "config.yaml").is_file() else path


if __name__ == "__main__":
    raise SystemExit(main())
