"""``make pictures``: the README's images, by the packaged adapters.

The photograph is china.jpg by Daniel Buechele (https://www.flickr.com/photos/danielbuechele/6061409035, CC BY 2.0),
which scikit-learn carries.  The rows of scenes are those of the adapters' trainings: `make adapters` leaves them in
runs/adapters.
"""

import shutil
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_image

from commands.adapters import IMAGES
from commands.cli.errors import user_errors
from inference import Translator
from packaged_adapters import PREFIX

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "pictures"
PHOTOGRAPHS = {"photo_night.jpg": "day2night", "photo_fog.jpg": "clear2foggy"}


@user_errors
def main() -> int:
    """Write the images; returns the exit code."""
    photo = Image.fromarray(load_sample_image("china.jpg"))
    photo.save(PICTURES / "photo.jpg", quality=88)
    for file, name in PHOTOGRAPHS.items():
        Translator.load(f"{PREFIX}{name}")(photo).save(PICTURES / file, quality=88)
    for name in IMAGES:
        rows = sorted((ROOT / "runs" / "adapters" / name).glob("pictures_*.png"))
        if not rows:
            raise FileNotFoundError(f"No pictures in runs/adapters/{name}: `make adapters EXP={name}` draws them.")
        for row in rows:
            shutil.copyfile(row, PICTURES / f"{name}_{row.stem.removeprefix('pictures_')}.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
