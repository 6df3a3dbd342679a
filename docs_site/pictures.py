"""``make pictures``: images of README and docs, by the packaged adapters.

The photograph is china.jpg by Daniel Buechele (https://www.flickr.com/photos/danielbuechele/6061409035, CC BY 2.0),
which scikit-learn carries.  The rows of scenes are those of the adapters' trainings: `make adapters` leaves them in
runs/adapters.
"""

import shutil
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from benchmarks.edits import strips
from commands.adapters import RECIPES
from commands.cli.errors import user_errors
from datamodules.scenes import render_state
from inference import Translator
from lightning_modules.callbacks.image_grid import write_grid
from packaged_adapters import PREFIX

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
PHOTOGRAPHS = {"photo_night.jpg": "day2night", "photo_fog.jpg": "clear2foggy"}
EDIT = "edit"  # the adapter of docs/editing.md, which has images of its own
EDITS = {
    "street": (
        ("day", "clear", "dry"),
        *("a street at night", "a street in dense fog", "a wet street", "a street at night in dense fog"),
    ),
    "meadow": (
        ("horse", "green"),
        *("picture of a zebra", "picture of sand", "picture of dry grass", "picture of a zebra in sand"),
    ),
}
"""Attributes of the inputs, then prompts, by place; the last prompt was never trained from these inputs."""
EDITED_SCENES = range(20_000, 20_004)
AMOUNTS = {"strength": "STRENGTH", "prompts": "mixed prompts"}  # rows of the strip from 0 to 1
PHOTO_EDITS = {"photo_edit_night.jpg": "a street at night", "photo_edit_fog.jpg": "a street in dense fog"}


def draw_edits(photo: Image.Image) -> None:
    """Write the images of docs/editing.md."""
    translator = Translator.load(f"{PREFIX}{EDIT}")
    for place, (state, *prompts) in EDITS.items():
        scenes = [render_state(place, state, 0, index, 128) for index in EDITED_SCENES]
        rows = {"input": scenes}
        for prompt in prompts:
            rows[prompt] = [torch.from_numpy(translator(scene.numpy(), "a2b", prompt)) for scene in scenes]
        write_grid(PICTURES / f"edit_{place}.png", rows)
    scene = render_state("street", ("day", "clear", "dry"), 0, EDITED_SCENES[0], 128)
    ways = strips(translator, "street", {"light": "day"}, "a street at night", scene.numpy())
    write_grid(
        PICTURES / "edit_amounts.png",
        {label: [torch.from_numpy(image) for image in ways[way]] for way, label in AMOUNTS.items()},
    )
    for file, prompt in PHOTO_EDITS.items():
        translator(photo, "a2b", prompt).save(PICTURES / file, quality=88)


@user_errors
def main() -> int:
    """Write the images; returns the exit code."""
    photo = Image.fromarray(load_sample_image("china.jpg"))
    photo.save(PICTURES / "photo.jpg", quality=88)
    for file, name in PHOTOGRAPHS.items():
        Translator.load(f"{PREFIX}{name}")(photo).save(PICTURES / file, quality=88)
    for name in sorted(RECIPES.keys() - {EDIT}):
        rows = sorted((ROOT / "runs" / "adapters" / name).glob("pictures_*.png"))
        if not rows:
            raise FileNotFoundError(f"No pictures in runs/adapters/{name}: `make adapters EXP={name}` draws them.")
        for row in rows:
            shutil.copyfile(row, PICTURES / f"{name}_{row.stem.removeprefix('pictures_')}.png")
    draw_edits(photo)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
