import json

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ablation.grids import parse_grid
from ablation.trials import Trial

GRID = parse_grid(
    "design",
    {
        "experiment": "clear2foggy",
        "seeds": [0, 1],
        "axes": {"skip": {"zero-conv": {}, "none": {}}, "rank": {16: {}, 4: {}}},
        "exclude": [{"skip": "none", "rank": 4}],
    },
)


def block(fid, truth=True):
    known = {"psnr_truth": 20.0, "lpips_truth": 0.1} if truth else {}
    names = {f"{role}_features": "lite0" for role in ("fid", "structure", "lpips")}
    scores = {"fid": fid, "kid": fid / 100, "structure": 0.01, "diversity": None, "n_fake": 5, "n_real": 5}
    return {**scores, **names, **known}


@pytest.fixture
def finished(tmp_path):
    """Trials of GRID in a folder; a run is finished where ``fids[point name, seed]`` says its FIDs, a2b and b2a."""

    def build(fids, truth=True):
        trials = []
        for seed in GRID.seeds:
            for point in GRID.points():
                folder = tmp_path / point.name / f"seed{seed}"
                trial = Trial(point.name, point.labels, seed, str(folder), [f"--seed_everything={seed}"])
                trials.append(trial)
                if (point.name, seed) not in fids:
                    continue
                a2b, b2a = fids[point.name, seed]
                folder.mkdir(parents=True)
                trial.record.write_text(json.dumps({"arguments": trial.arguments}))
                metrics = {"base": "pocket", "data": "twin world", "images_seen": 9, "trainable_parameters": 1000}
                metrics |= {"seconds_per_batch": a2b / 100, "peak_memory_mb": 1500.0, "wall_s": 60.0}
                metrics |= {"a2b": block(a2b, truth), "b2a": block(b2a, truth)}
                (folder / "metrics.json").write_text(json.dumps(metrics))
                for direction in ("a2b", "b2a"):
                    draw(folder / f"pictures_{direction}.png", 3 if truth else 2)
        return trials

    return build


def draw(path, rows, shades=(40, 80, 120, 160), height=12, width=16):
    """What `ImageGrid` writes: two pixels of black around every picture; the first column of one picture is black."""
    canvas = np.zeros((rows * (height + 2) + 2, len(shades) * (width + 2) + 2, 3), np.uint8)
    for row in range(rows):
        for column, shade in enumerate(shades):
            top, left = 2 + row * (height + 2), 2 + column * (width + 2)
            canvas[top : top + height, left : left + width] = shade + 10 * row
    canvas[2 : 2 + height, 2:4] = 0
    layout = PngInfo()
    layout.add_text("columns", str(len(shades)))
    layout.add_text("rows", str(rows))
    Image.fromarray(canvas).save(path, pnginfo=layout)
