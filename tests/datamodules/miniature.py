"""Miniature folders: small noisy images that differ from each other."""

import numpy as np
from PIL import Image


def save(path, shade=0, size=(24, 16)):
    """A noisy picture around one shade; size is width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(shade).integers(0, 40, (size[1], size[0], 3))
    Image.fromarray((noise + shade % 200).astype(np.uint8)).save(path)
    return path


def domains(root, **counts):
    """Folders such as train_A=3 with numbered pictures."""
    for name, count in counts.items():
        for k in range(count):
            save(root / name / f"{k:03d}.png", shade=k + 100 * name.endswith("B"))
    return root
