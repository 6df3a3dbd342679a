"""One self-contained HTML page of an evaluation: scores, pictures to compare, best and worst, failures, curves."""

import base64
import html
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from datamodules.batches import Translation
from images.resizing import resize_short_side

TEMPLATE = Path(__file__).with_suffix(".html")
THUMBNAIL = 256  # pixels of the short side at most
SHOWN = 24  # pictures per direction to click through
EACH = 4  # best and worst per score
TABLE = (
    "fid fid_floor kid structure lpips_truth psnr_truth caption_similarity identity_gap diversity domain_shift".split()
)
# Score of one image => whether higher is better.
SCORES = {
    "lpips_truth": False,
    "psnr_truth": True,
    "structure": False,
    "identity_gap": None,
    "caption_similarity": True,
}
FAILURES = {
    "saturated": "a tenth of the pixels or more at 0 or 255, and twice as many as in the input",
    "near-duplicate": "the nearest other translation is nearer than a fifth of the inputs' usual distance",
    "copy": "nearer to the input than a tenth of the usual identity gap",
}


@dataclass
class Record:
    """One translated picture.

    Attributes:
        name: of the input.
        pictures: JPEG, base64, by "real", "fake" and, where it is known, "truth".
        saturated: share of pixels at 0 or 255 in all channels, of the translation and of the input.
        scores: by name; see `SCORES`, and "nearest".
    """

    name: str
    pictures: dict[str, str]
    saturated: tuple[float, float]
    scores: dict[str, float] = field(default_factory=dict)

    def failures(self, usual_nearest: float, usual_gap: float) -> list[str]:
        """Keys of `FAILURES` that apply."""
        fake, real = self.saturated
        found = {
            "saturated": fake >= 0.1 and fake >= 2 * real,
            "near-duplicate": self.scores.get("nearest", usual_nearest) < 0.2 * usual_nearest,
            "copy": self.scores.get("identity_gap", usual_gap) < 0.1 * usual_gap,
        }
        return [name for name, applies in found.items() if applies]


class Gallery:
    """Collects one direction's pictures as the evaluation goes; memory: three small JPEGs per picture."""

    def __init__(self) -> None:
        self._records: dict[int, Record] = {}

    def add(self, done: Translation) -> None:
        """Add a batch of translations."""
        for k, place in enumerate(done.index.tolist()):
            found = {"real": done.real[k], "fake": done.fake[k]}
            if done.truth is not None:
                found["truth"] = done.truth[k]
            pictures = {role: _jpeg(picture) for role, picture in found.items()}
            saturated = _saturated(done.fake[k]), _saturated(done.real[k])
            self._records[place] = Record(done.names[k], pictures, saturated)

    def records(self, per_image: Mapping[str, Tensor]) -> list[Record]:
        """All pictures in the order of the split, with their scores.

        Args:
            per_image: ``(n,)`` by name, ordered by index.
        """
        ordered = [record for _, record in sorted(self._records.items())]
        for name, values in per_image.items():
            for record, value in zip(ordered, values.tolist(), strict=True):
                if value == value:  # no NaN
                    record.scores[name] = value
        return ordered


def write_report(path: Path, report: Mapping[str, Any], found: Mapping[str, list[Record]], run: Path | None) -> None:
    """Write the page.

    Args:
        path: the HTML file.
        report: content of metrics.json.
        found: records by direction.
        run: a run folder, for its curves; None leaves them out.
    """
    body: list[str] = [_facts(report), "<h2>Scores</h2>", _scores(report, list(found))]
    used: dict[str, str] = {}
    for direction, records in found.items():
        body += [f"<h2>{direction}</h2>", _look(direction, records, used), _histograms(records)]
        body += [_extremes(direction, records, used), _failures(direction, records, used, report[direction])]
    curves = _curves(run) if run is not None else {}
    if curves:
        body.append("<h2>Curves</h2><p class='note'>Over images seen.</p><div class='row'>")
        body += [_curve(tag, points) for tag, points in curves.items()]
        body.append("</div>")
    title = html.escape(f"{report.get('base', report.get('pictures', 'pictures'))}: {report.get('data', '')}")
    page = Template(TEMPLATE.read_text()).substitute(title=title, body="\n".join(body), pictures=json.dumps(used))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)


def _facts(report: Mapping[str, Any]) -> str:
    facts = {key: report.get(key) for key in ("images_seen", "trainable_parameters", "base_fingerprint", "pictures")}
    lines = [f"{key.replace('_', ' ')}: {value}" for key, value in facts.items() if value is not None]
    lines += [f"placeholder: {name}" for name in report.get("placeholders", [])]
    if report.get("best", {}).get("is_last"):
        lines.append("this state is also the best by validation")
    return "".join(f"<p class='note'>{html.escape(line)}</p>" for line in lines)


def _scores(report: Mapping[str, Any], directions: Iterable[str]) -> str:
    parts = []
    best = report.get("best", {})
    for direction in directions:
        block = report[direction]
        columns = {"translation": block, "input unchanged": block.get("copy_input") or {}}
        if direction in best:
            columns[f"{best['checkpoint']}, best by validation"] = best[direction]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        rows = "".join(
            f"<tr><td>{key}</td>{''.join(f'<td>{_figure(column.get(key))}</td>' for column in columns.values())}</tr>"
            for key in TABLE
        )
        networks = ", ".join(f"{name} {digest}" for name, digest in block["network_hashes"].items())
        said = "; ".join(f"{key} {value}" for key, value in block["protocol"].items() if value is not None)
        parts.append(
            f"<div><h3>{direction}: {block['n_fake']} translations, {block['n_real']} real pictures</h3>"
            f"<table><tr><th></th>{head}</tr>{rows}</table>"
            f"<p class='note'>{html.escape(said)}; weights {html.escape(networks)}</p></div>"
        )
    return f"<div class='two'>{''.join(parts)}</div>"


def _look(direction: str, records: list[Record], used: dict[str, str]) -> str:
    thumbs = []
    for k, record in enumerate(records[:SHOWN]):
        keys = _use(direction, k, record, used)
        data = " ".join(f'data-{role}="{key}"' for role, key in keys.items() if role != "fake")
        thumbs.append(f'<img alt="" data-p="{keys["fake"]}" data-name="{html.escape(record.name)}" {data}>')
    truth = '<button class="truth">against the truth</button>' if "truth" in records[0].pictures else ""
    return (
        f'<div class="look" id="look-{direction}"><div class="strip">{"".join(thumbs)}</div>'
        '<div class="viewer"><img class="under" alt="input"><img class="over" alt="translation"></div>'
        '<div class="tools"><input type="range" min="0" max="100" value="50" aria-label="input to translation">'
        f'<button class="flicker">flicker</button>{truth}<span class="name"></span></div></div>'
    )


def _extremes(direction: str, records: list[Record], used: dict[str, str]) -> str:
    parts = []
    for score, higher in SCORES.items():
        known = [(record.scores[score], k) for k, record in enumerate(records) if score in record.scores]
        if not known:
            continue
        known.sort(reverse=bool(higher))
        words = ("lowest", "highest") if higher is None else ("best", "worst")
        for word, some in zip(words, (known[:EACH], known[::-1][:EACH]), strict=True):
            figures = [_triple(direction, k, records[k], used, f"{value:.3g}") for value, k in some]
            parts.append(f"<h3>{word} {score}</h3><div class='row'>{''.join(figures)}</div>")
    return "".join(parts)


def _failures(direction: str, records: list[Record], used: dict[str, str], block: Mapping[str, Any]) -> str:
    nearest = _median([r.scores["nearest_source"] for r in records if "nearest_source" in r.scores])
    gap = _median([r.scores["identity_gap"] for r in records if "identity_gap" in r.scores])
    found = {name: [k for k, r in enumerate(records) if name in r.failures(nearest, gap)] for name in FAILURES}
    parts = []
    for name, places in found.items():
        kind = " class='alarm'" if places else ""
        parts.append(f"<div{kind}><h3>{name}: {len(places)} of {len(records)}</h3><p class='note'>{FAILURES[name]}</p>")
        figures = [_triple(direction, k, records[k], used, "") for k in places[:EACH]]
        parts.append(f"<div class='row'>{''.join(figures)}</div></div>")
    if block.get("diversity") is not None and block["diversity"] < 0.3:
        parts.insert(0, "<p class='alarm'>mode collapse: translations are too close to each other (diversity)</p>")
    return "<h3>Failures</h3>" + "".join(parts)


def _triple(direction: str, k: int, record: Record, used: dict[str, str], said: str) -> str:
    keys = _use(direction, k, record, used)
    images = "".join(f'<img alt="{role}" data-p="{key}">' for role, key in keys.items())
    return f"<figure><div class='triple'>{images}</div>{html.escape(record.name)} {said}</figure>"


def _use(direction: str, k: int, record: Record, used: dict[str, str]) -> dict[str, str]:
    """Keys of a record's pictures in the page, each of which holds a picture once."""
    keys = {role: f"{direction}-{k}-{role}" for role in record.pictures}
    used |= {keys[role]: picture for role, picture in record.pictures.items()}
    return keys


def _histograms(records: list[Record], bins: int = 20) -> str:
    parts = []
    for score in SCORES:
        values = torch.tensor([r.scores[score] for r in records if score in r.scores], dtype=torch.float64)
        if len(values) < 2:
            continue
        low, high = float(values.min()), float(values.max())
        counts = torch.histc(values, bins, low, high).tolist()
        top = max(counts)
        bars = "".join(
            f'<rect x="{k * 10}" y="{60 - 50 * n / top:.1f}" width="9" height="{50 * n / top:.1f}" fill="var(--ink)"/>'
            for k, n in enumerate(counts)
        )
        parts.append(
            f'<figure><svg width="{bins * 10}" height="76">{bars}<text x="2" y="72">{low:.3g}</text>'
            f'<text x="{bins * 10 - 2}" y="72" text-anchor="end">{high:.3g}</text></svg>{score} of each image</figure>'
        )
    return f"<div class='row'>{''.join(parts)}</div>" if parts else ""


def _curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Scalars of a run's events: ``train/`` and ``val/``."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(run.glob("events.out.tfevents.*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 500}).Reload()
        for tag in events.Tags()["scalars"]:
            if tag.startswith(("train/", "val/")):
                found.setdefault(tag, []).extend((s.step, s.value) for s in events.Scalars(tag))
    return {tag: sorted(points) for tag, points in sorted(found.items()) if len(points) > 1}


def _curve(tag: str, points: list[tuple[int, float]], width: int = 220, height: int = 90) -> str:
    steps, values = zip(*points, strict=True)
    low, high = min(values), max(values)
    across, up = max(steps[-1] - steps[0], 1), (high - low) or 1.0
    line = " ".join(
        f"{(step - steps[0]) / across * (width - 4) + 2:.1f},{height - 16 - (value - low) / up * (height - 24):.1f}"
        for step, value in points
    )
    return (
        f'<figure><svg width="{width}" height="{height}"><polyline points="{line}" fill="none" stroke="var(--ink)"/>'
        f'<text x="2" y="{height - 3}">{steps[0]} to {steps[-1]}</text>'
        f'<text x="{width - 2}" y="{height - 3}" text-anchor="end">{low:.3g} to {high:.3g}</text></svg>'
        f"{html.escape(tag)}</figure>"
    )


def _jpeg(picture: Tensor) -> str:
    if min(picture.shape[-2:]) > THUMBNAIL:
        picture = resize_short_side(picture, THUMBNAIL)
    buffer = BytesIO()
    image: Image.Image = to_pil_image((picture.float().cpu().clamp(-1, 1) + 1) / 2)
    image.save(buffer, "JPEG", quality=88)
    return base64.b64encode(buffer.getvalue()).decode()


def _saturated(picture: Tensor) -> float:
    levels = ((picture.float() + 1) * 127.5).round()
    return float(((levels <= 0) | (levels >= 255)).all(dim=0).float().mean())


def _median(values: list[float]) -> float:
    return float(torch.tensor(values).median()) if values else 0.0


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
