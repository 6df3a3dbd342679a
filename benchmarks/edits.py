"""``make bench-edit``: one adapter that edits by words, beside single-task adapters, and at the limits of its words.

Trains the experiment `edit` and, on as many images each, an adapter for each of three of its edits.  Then measures, on
test scenes: every kind of edit; combinations that were never trained, in one step and as a chain of two trained edits;
other words for trained edits; prompts about nothing in the image; and two ways to do half an edit, a strength below 1
and a mixture of the embeddings of two prompts.

Each training is an ordinary run folder below ``--root``: a finished one is not repeated, an interrupted one is resumed.
``--ckpt`` measures an adapter that is there, such as the packaged one, and trains none.
"""

import argparse
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablation.trials import Trial
from benchmarks.context import device_name, typed_command
from benchmarks.trial_queue import TrialQueue
from commands.cli.errors import user_errors
from commands.cli.recipes import compose
from commands.evaluate import build_data, scores_of
from datamodules import Edits
from datamodules.edits import NO_CHANGE, SceneEdit, scene_edits
from datamodules.scenes import describe, render_state
from evaluation.edits import OVERALL, edit_text
from images.ranges import Array
from inference.translator import Translator
from metrics.pixels import from_uint8, to_uint8
from metrics.psnr import psnr
from metrics.scores import formatted, markdown_table
from networks.checkpoints.adapter import read_adapter
from networks.features import FeatureNetwork, load_features
from storage import write_json

SINGLE = ("a street at night", "a street in dense fog", "picture of a zebra")
# Words that no caption of the experiment has, for edits that it was trained on.
SYNONYMS = {
    "a street at night": ("driving in the night", "a dark street"),
    "a street in dense fog": ("driving in dense fog", "a misty street"),
    "picture of a zebra": ("a zebra", "picture of a striped animal"),
}
ELSEWHERE = ("a bowl of fruit", "")  # prompts about nothing in the image
AMOUNTS = (0.0, 0.25, 0.5, 0.75, 1.0)
Scene = tuple[SceneEdit, Array, Array]  # an edit, its input and its truth, (3, H, W) in [-1, 1]


class Measured:
    """Distances of translations to other images.

    Args:
        network: of the perceptual distance.
    """

    def __init__(self, network: FeatureNetwork) -> None:
        self.network = network

    def lpips(self, image: Array, other: Array) -> float:
        """Perceptual distance of two images ``(3, H, W)`` in [-1, 1], as 8 bits."""
        with torch.inference_mode():
            stages = [self.network.stages(from_uint8(_pixels(one))) for one in (image, other)]
            return float(self.network.distance(*stages))

    def to_truth(self, results: Sequence[Array], scenes: Sequence[Scene]) -> dict[str, float]:
        """LPIPS and PSNR of results to the truth, and of the inputs beside them; means."""
        pairs = list(zip(results, scenes, strict=True))
        return {
            "n": len(scenes),
            "lpips_truth": _mean(self.lpips(result, truth) for result, (_, _, truth) in pairs),
            "copy_lpips_truth": _mean(self.lpips(source, truth) for _, source, truth in scenes),
            "psnr_truth": _mean(_psnr(result, truth) for result, (_, _, truth) in pairs),
            "copy_psnr_truth": _mean(_psnr(source, truth) for _, source, truth in scenes),
        }


def _pixels(image: Array) -> torch.Tensor:
    return to_uint8(torch.from_numpy(np.ascontiguousarray(image))[None])


def _psnr(image: Array, other: Array) -> float:
    return float(psnr(_pixels(image), _pixels(other)))


def _mean(values: "Iterator[float]") -> float:
    return float(np.mean(list(values)))


def scenes_of(data: Edits, chosen: Callable[[SceneEdit], bool], count: int) -> list[Scene]:
    """Scenes that no split has, with an edit each of those that are chosen, in turn."""
    edits = [edit for place in ("street", "meadow") for edit in scene_edits(place) if chosen(edit)]
    first = sum(data.scene_counts.values())
    found = []
    for k in range(count):
        edit = edits[k % len(edits)]
        source, target = (
            render_state(edit.place, state, data.seed, first + k, data.eval_size).numpy()
            for state in (edit.source, edit.target)
        )
        found.append((edit, source, target))
    return found


def chains(translator: Translator, data: Edits, measured: Measured, count: int) -> dict[str, Any]:
    """Unseen combinations, by one prompt that names both changes and by two trained edits one after the other."""
    found: dict[str, Any] = {}
    for kind in dict.fromkeys(edit.kind for place in ("street", "meadow") for edit in scene_edits(place)):
        if not kind.startswith("unseen"):
            continue
        scenes = scenes_of(data, lambda edit, kind=kind: edit.kind == kind, count)  # type: ignore[misc]
        once, twice = [], []
        for edit, source, _ in scenes:
            once.append(translator(source, "a2b", edit.prompt))
            step = source
            for name, value in edit.asked.items():
                step = translator(step, "a2b", describe(edit.place, {name: value}))
            twice.append(step)
        found[kind] = {"one step": measured.to_truth(once, scenes), "chained": measured.to_truth(twice, scenes)}
    return found


def other_words(translator: Translator, data: Edits, measured: Measured, count: int) -> list[dict[str, Any]]:
    """Trained edits in other words: distances to the truth."""
    rows = []
    for kind, words in SYNONYMS.items():
        scenes = scenes_of(data, lambda edit, kind=kind: edit.kind == kind, count)  # type: ignore[misc]
        for prompt in (kind, *words):
            results = [translator(source, "a2b", prompt) for _, source, _ in scenes]
            rows.append({"edit": kind, "prompt": prompt, **measured.to_truth(results, scenes)})
    return rows


def elsewhere(translator: Translator, data: Edits, measured: Measured, count: int) -> list[dict[str, Any]]:
    """Prompts about nothing in the image: distance to the input, and whether different inputs stay different."""
    scenes = scenes_of(data, lambda edit: edit.kind == NO_CHANGE, count)
    rows = []
    for prompt in ELSEWHERE:
        results = [translator(source, "a2b", prompt) for _, source, _ in scenes]
        rows.append(
            {
                "prompt": prompt,
                "lpips_input": _mean(measured.lpips(r, s) for r, (_, s, _) in zip(results, scenes, strict=True)),
                "between_results": _mean(measured.lpips(a, b) for a, b in itertools.pairwise(results)),
                "between_inputs": _mean(measured.lpips(a[1], b[1]) for a, b in itertools.pairwise(scenes)),
            }
        )
    return rows


def strips(
    translator: Translator, place: str, before: dict[str, str], prompt: str, source: Array
) -> dict[str, list[Array]]:
    """One image translated by every one of `AMOUNTS`, in two ways.

    ``strength`` is that of `make translate`.  ``prompts`` mixes the embeddings of the prompt that names what is there
    and of the edit's, at strength 1.

    Args:
        translator: of an adapter that edits.
        place: of the scene.
        before: what the edit changes, as it is in the input.
        prompt: of the edit.
        source: the input, ``(3, H, W)`` in [-1, 1].
    """
    backend = translator.backend
    start, end = backend.embed([describe(place, before), prompt])
    mixed = [start + amount * (end - start) for amount in AMOUNTS]
    return {
        "strength": [translator(source, "a2b", prompt, strength=amount) for amount in AMOUNTS],
        "prompts": [backend.translate(source[None], embedding[None], "a2b")[0] for embedding in mixed],
    }


def amounts(translator: Translator, data: Edits, measured: Measured, count: int) -> dict[str, Any]:
    """Parts of an edit: distances to input and truth by amount, and the share of steps away from the input."""
    scenes = scenes_of(data, lambda edit: edit.kind in SINGLE, count)
    drawn: dict[str, list[list[Array]]] = {}
    for edit, source, _ in scenes:
        before = {name: edit.before[name] for name in edit.named}
        for way, strip in strips(translator, edit.place, before, edit.prompt, source).items():
            drawn.setdefault(way, []).append(strip)
    found: dict[str, Any] = {}
    for way, every in drawn.items():
        gaps = np.array([[measured.lpips(r, s) for r in strip] for strip, (_, s, _) in zip(every, scenes, strict=True)])
        errors = [[measured.lpips(r, t) for r in strip] for strip, (_, _, t) in zip(every, scenes, strict=True)]
        found[way] = {
            "amounts": list(AMOUNTS),
            "lpips_input": gaps.mean(0).tolist(),
            "lpips_truth": np.mean(errors, 0).tolist(),
            "steps_away_from_input": float((np.diff(gaps, axis=1) > 0).mean()),
        }
    return found


def train_all(root: Path, overrides: Sequence[str]) -> tuple[dict[str, Trial], dict[str, str]]:
    """Train what has not finished; returns the trials by kind of edit (`OVERALL` is all), and the failures by log."""
    words = ["--exp=edit", "--base=pocket"]
    trials = {OVERALL: Trial("edit", {"task": "edit"}, 0, str(root / "edit"), [*words, *overrides])}
    for kind in SINGLE:
        name = kind.replace(" ", "-")
        only = [f'--data.init_args.kinds=["{kind}"]', "--data.init_args.noops=0"]
        trials[kind] = Trial(name, {"task": kind}, 0, str(root / name), [*words, *only, *overrides])
    queue = TrialQueue(list(trials.values()))
    failures = {}
    for trial in trials.values():
        if trial.metrics() is None and (error := queue.train(trial)):
            failures[str(trial.log)] = error
    return trials, failures


def beside_single(trials: dict[str, Trial]) -> list[dict[str, Any]]:
    """The adapter for all edits beside each single-task adapter, on the test images of that edit."""
    rows = []
    for kind in SINGLE:
        every, single = trials[OVERALL].metrics(), trials[kind].metrics()
        if every and single:
            one, other = (metrics["a2b"]["by_kind"][kind] for metrics in (every, single))
            rows.append(
                {
                    "edit": kind,
                    **{f"all_{name}": one[name] for name in ("lpips_truth", "psnr_truth", "success")},
                    **{f"single_{name}": other[name] for name in ("lpips_truth", "psnr_truth", "success")},
                    "ratio": one["lpips_truth"] / other["lpips_truth"],
                }
            )
    return rows


def aims(by_kind: dict[str, dict[str, float]], single: Sequence[dict[str, Any]]) -> dict[str, float]:
    """What is aimed at: shares of what is possible."""
    smallest = min(scores["copy_lpips_truth"] for kind, scores in by_kind.items() if kind not in (NO_CHANGE, OVERALL))
    overall = by_kind[OVERALL]
    found = {
        "success, share of true images' (aim: at least 0.9)": overall["success"] / overall["success_truth"],
        "no-op's LPIPS, of the smallest edit's (aim: at most 0.33)": by_kind[NO_CHANGE]["lpips_truth"] / smallest,
    }
    if single:
        worst = max(row["ratio"] for row in single)
        found["LPIPS, of the single-task adapter's, the worst of three (aim: at most 1.25)"] = worst
    return found


def markdown(report: dict[str, Any]) -> str:
    """Every table of the report."""
    parts = [edit_text(report["by_kind"])]
    if report["single"]:
        parts.append(_table(report["single"]))
    chained = [
        {"edit": kind, "way": way, **scores} for kind, ways in report["unseen"].items() for way, scores in ways.items()
    ]
    parts += [_table(chained), _table(report["other_words"]), _table(report["elsewhere"])]
    for way, found in report["amounts"].items():
        rows = [
            {"amount": amount, "lpips_input": gap, "lpips_truth": error}
            for amount, gap, error in zip(found["amounts"], found["lpips_input"], found["lpips_truth"], strict=True)
        ]
        parts.append(f"{way}, {found['steps_away_from_input']:.2f} of the steps lead away\n\n{_table(rows)}")
    parts.append(_table([{"aim": name, "measured": value} for name, value in report["aims"].items()]))
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[dict[str, Any]]) -> str:
    cells = [[formatted(v) if isinstance(v, int | float) else repr(v) for v in row.values()] for row in rows]
    return markdown_table([name.replace("_", " ") for name in rows[0]], cells)


@user_errors
def main(args: list[str] | None = None) -> int:
    """Train what is missing, measure, write and print the tables; returns 1 where a training failed."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.edits", description=__doc__)
    p.add_argument("--scenes", type=int, default=16, metavar="N", help="of each measurement (default %(default)s)")
    p.add_argument("--ckpt", metavar="ADAPTER", help="measure this adapter, and train none")
    p.add_argument("--root", type=Path, default=Path("runs/bench-edit"), help="folder of the runs")
    p.add_argument("--out", type=Path, help="also write JSON")
    own, overrides = p.parse_known_args(args)
    single: list[dict[str, Any]] = []
    try:
        if own.ckpt:
            if overrides:
                p.error(f"--ckpt trains nothing that {overrides[0]} could change")
            adapter, metrics = own.ckpt, scores_of(own.ckpt, "edit")
        else:
            trials, failures = train_all(own.root.absolute(), overrides)
            found = trials[OVERALL].metrics()
            if failures or found is None:
                return 1
            adapter, metrics, single = trials[OVERALL].folder, found, beside_single(trials)
    except KeyboardInterrupt:
        print("\nStopped; the same command resumes from the last checkpoint.")
        return 130
    data = build_data(compose("edit", "pocket").config, None)
    assert isinstance(data, Edits)
    translator = Translator.load(adapter, "float32")
    measured = Measured(load_features("lite0"))
    by_kind = metrics["a2b"]["by_kind"]
    report: dict[str, Any] = {
        "command": typed_command(p, args),
        "device": device_name(),
        "images": read_adapter(adapter).card.run.images_seen,
        "seconds": metrics.get("wall_s"),
        "by_kind": by_kind,
        "single": single,
        "unseen": chains(translator, data, measured, own.scenes),
        "other_words": other_words(translator, data, measured, own.scenes),
        "elsewhere": elsewhere(translator, data, measured, own.scenes),
        "amounts": amounts(translator, data, measured, own.scenes),
        "aims": aims(by_kind, single),
    }
    print(markdown(report))
    if own.out:
        write_json(own.out, report)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
