"""``make evaluate``: metrics.json of a checkpoint, or of pictures that any other program made, on the test split."""

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from commands.cli.errors import user_errors
from commands.cli.recipes import base_source, compose, merged, names, read_settings
from commands.cli.training import describe
from datamodules.base import TranslationData
from datamodules.batches import EvaluationBatch
from evaluation.compare import differences
from evaluation.report import Gallery, Record, write_report
from evaluation.summary import summary
from images.listing import list_images
from images.reading import read_image
from images.resizing import resize_short_side
from inference.device import pick_device
from lightning_modules.callbacks import Evaluation
from networks import ImageTranslator, load_generator
from networks.checkpoints.adapter import read_adapter
from networks.checkpoints.card import RunFacts
from networks.features.resizing import RESIZERS
from storage import write_json


def parser() -> argparse.ArgumentParser:
    """Arguments of this command."""
    p = argparse.ArgumentParser(prog="python -m commands.evaluate", description=__doc__)
    p.add_argument(
        "--ckpt", required=True, metavar="PATH", help="run, adapter, .ckpt, released .pkl, or a folder of pictures"
    )
    p.add_argument("--data", metavar="FOLDER", help="images to translate and compare with; default: the run's own")
    p.add_argument(
        "--base", metavar="BASE", help="where the base is, if not where training found it; needed for a .pkl"
    )
    p.add_argument("--exp", metavar="NAME", help=f"for what is not a run: the task, one of {', '.join(names())}")
    p.add_argument("--resize", choices=[*RESIZERS], help="of pictures for FID and KID; default: the run's own way")
    p.add_argument("--out", metavar="FOLDER", help="where metrics.json goes; default: beside the checkpoint")
    p.add_argument("--device", default="auto", metavar="DEVICE", help="cpu, cuda, cuda:1, mps; default: what is there")
    return p


@user_errors
def main(args: list[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    own = parser().parse_args(args)
    path = Path(own.ckpt)
    pictures = _pictures(path)
    adapter = None if pictures else read_adapter(path)
    config = _config(path, own.exp, own.base if own.base else "pocket")
    out = _out(path, own.out, beside=not pictures and path.suffix != ".pkl")
    data = build_data(config, own.data)
    evaluation = Evaluation(**config.get("evaluation", {}) | ({"resize": own.resize} if own.resize else {}))
    device = pick_device(own.device)
    report: dict[str, Any]
    if adapter is not None:
        generator = load_generator(adapter, base_source(own.base)).to(device)
        generator.prompts = generator.prompts or dict(data.prompts)  # a released .pkl holds none
        run = RunFacts(data=data.description, data_is_rendered=data.is_rendered, preprocessing=data.preprocessing)
        report = {
            "images_seen": adapter.card.run.images_seen,
            "trainable_parameters": sum(t.numel() for t in adapter.tensors.values()),
            **describe(generator, run),
        }
        print(f"base: {generator.base_description}")
        seen = list(adapter.card.run.training_features or ())
    else:
        generator, seen = None, []
        report = {"pictures": str(path), "data": data.description, "preprocessing": data.preprocessing}
    print(f"data: {data.description}\ndevice: {device}")
    found: dict[str, list[Record]] = {}
    for loader in data.test_dataloader():
        metrics, gallery = None, Gallery()
        for batch in tqdm(loader, desc="evaluate", unit="batch", disable=None):
            if pictures is not None and batch.direction not in pictures.folders:
                break
            if generator is not None and batch.direction not in generator.directions:
                break
            if metrics is None:
                metrics = evaluation.build(seen).to(device)
                for reference in data.reference_dataloader(batch.direction, "test"):
                    metrics.update_real(reference.real.to(device), reference.index)
            real = batch.real.to(device)
            fake = (
                _translate(generator, real, batch)
                if generator
                else _made(pictures, batch, data.preprocessing).to(device)
            )
            truth = None if batch.truth is None else batch.truth.to(device)
            metrics.update(real, fake, batch.index, truth, batch.captions)
            gallery.add(batch.index, batch.names, real, fake, batch.truth)
        if metrics is not None:
            protocol = evaluation.protocol(data, batch.direction, "test")
            report[batch.direction] = {**metrics.compute(), "protocol": protocol}
            found[batch.direction] = gallery.records(metrics.per_image())
    report = _training_figures(out / "metrics.json", report) | report
    write_json(out / "metrics.json", report)
    write_report(out / "report.html", report, found, run_folder(path))
    print(summary(report))
    print(f"written: {out / 'metrics.json'}, report.html")
    return 0


def _translate(generator: ImageTranslator, real: torch.Tensor, batch: EvaluationBatch) -> torch.Tensor:
    return generator.translate(real, batch.captions, batch.direction)


def _training_figures(path: Path, report: dict[str, Any]) -> dict[str, Any]:
    """What only training knows, from the file that is about to be replaced, if it is of the same state.

    The run's best state is kept only where it was measured as the report is.
    """
    old = json.loads(path.read_text()) if path.is_file() else {}
    if old.get("images_seen") is None or old["images_seen"] != report.get("images_seen"):
        return {}
    kept = {k: old[k] for k in ("batches", "wall_s", "seconds_per_batch", "peak_memory_mb") if k in old}
    best = old.get("best")
    measured = [d for d in ("a2b", "b2a") if best and d in best]
    if best and not any(differences(best[d], report.get(d, {})) for d in measured):
        kept["best"] = best
    return kept


class Pictures:
    """Translations that some program made, found by the names of their inputs.

    Args:
        folder: with sub-folders ``a2b/`` and ``b2a/``, or all of a2b.
    """

    def __init__(self, folder: Path) -> None:
        self.folders = {d: folder / d for d in ("a2b", "b2a") if (folder / d).is_dir()} or {"a2b": folder}
        self.named: dict[tuple[str, str], list[Path]] = {}
        for direction, below in self.folders.items():
            for path in list_images(below):
                name = path.relative_to(below).with_suffix("")
                for key in dict.fromkeys((name.as_posix(), f"*/{name.name}")):
                    self.named.setdefault((direction, key), []).append(path)
        self.taken: dict[Path, str] = {}

    def of(self, name: str, direction: str) -> Path:
        """The translation of an input: of its path below its folder, or of as much of the path's end as is there.

        Raises:
            FileNotFoundError: there is none.
            ValueError: several could be meant, or the one was an earlier input's already.
        """
        parts = Path(name).with_suffix("").parts
        keys = ["/".join(parts[k:]) for k in range(len(parts))]
        named = ((direction, key) for key in (*keys, f"*/{parts[-1]}"))
        found = next((self.named[key] for key in named if key in self.named), [])
        if not found:
            raise FileNotFoundError(
                f"No picture for {name} ({direction}): looked for {keys[0]}.* below {self.folders[direction]}."
            )
        if len(found) > 1:
            raise ValueError(f"{found[0]} and {found[1]} could both be the translation of {name}: keep one of them.")
        other = self.taken.setdefault(found[0], name)
        if other != name:
            raise ValueError(
                f"{found[0]} could be the translation of {other} and of {name}: keep the inputs' sub-folders."
            )
        return found[0]


def _pictures(path: Path) -> Pictures | None:
    """Those of a folder; None for anything else."""
    if not path.is_dir() or any(path.glob("**/adapter.json")) or not list_images(path):
        return None
    return Pictures(path)


def _made(pictures: Any, batch: EvaluationBatch, preprocessing: dict[str, Any]) -> torch.Tensor:
    made = []
    for name, real in zip(batch.names, batch.real, strict=True):
        path = pictures.of(name, batch.direction)
        picture = resize_short_side(read_image(path), preprocessing["eval_size"])
        if picture.shape != real.shape:
            raise ValueError(
                f"{path} has another shape than its input {name}: {tuple(picture.shape)} against {tuple(real.shape)}."
            )
        made.append(picture)
    return torch.stack(made)


def run_folder(path: Path) -> Path | None:
    """The run that a checkpoint or adapter lies in, if it lies in one."""
    folders = (path, *path.absolute().parents[:2])
    return next((folder for folder in folders if (folder / "config.yaml").is_file()), None)


def _config(path: Path, exp: str | None, base: str) -> dict[str, Any]:
    """The run's own configuration, else the experiment's files put together."""
    if exp is None:
        run = run_folder(path)
        if run is None:
            raise ValueError(
                f"{path} is not part of a run (no config.yaml), so its task is not known: "
                f"give EXP=, one of {', '.join(names())}."
            )
        return merged([read_settings(run / "config.yaml")])
    return compose(exp, base).config


def build_data(config: dict[str, Any], root: str | None) -> TranslationData:
    """The data module of a whole configuration, on another folder if one is given."""
    section = config["data"]
    module, _, name = section["class_path"].rpartition(".")
    init_args = section.get("init_args", {}) | ({"root": root} if root else {})
    data: TranslationData = getattr(importlib.import_module(module), name)(**init_args)
    return data


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
