"""Cold start of a translation: load and translate one image in a fresh process; torch is imported only where needed.

Used by `benchmarks.translate`; prints one line of JSON.
"""

import json
import resource
import sys
import time

started = time.perf_counter()

import numpy as np  # noqa: E402  # its import is part of a cold start

from inference import Translator  # noqa: E402


def main(path: str, precision: str, device: str, size: str) -> None:
    """Print the seconds from the start of this module to loaded and to the first image, and the peak memory."""
    translator = Translator.load(path, precision, device)
    loaded = time.perf_counter()
    translator(np.zeros((int(size), int(size), 3), np.uint8))
    first = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"load_s": loaded - started, "first_image_s": first - loaded, "peak_bytes": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
