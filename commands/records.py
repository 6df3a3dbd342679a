"""Results on disk."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write JSON whole or not at all, into a folder that need not be there yet.

    Raises:
        ValueError: a number is NaN or infinite, which JSON lacks.
    """
    part = path.with_suffix(".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    part.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n")
    os.replace(part, path)
