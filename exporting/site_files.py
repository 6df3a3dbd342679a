"""The files of a page beside its models: its own, and those of onnxruntime-web, which npm fetches once."""

import shutil
import tarfile
from pathlib import Path

from exporting import npm
from inference.backends.exported import PARITY
from prompt_embeddings import DIRECTIONS

PACKAGE = "onnxruntime-web@1.30.0"
"""Of npm; it reads the operators of `exporting.conversion.OPSET`."""
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # sha512
RUNTIME = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
"""The files of its folder dist that a page loads: WebAssembly alone, neither WebGL nor WebGPU."""
OWN = Path(__file__).with_name("site")
PAGE = "page.json"
NAMES = {
    *(file.name for file in OWN.iterdir()),
    *(*RUNTIME, PAGE, PARITY),
    *(f"{direction}.onnx" for direction in DIRECTIONS),
}
"""Every file of a page's folder."""


def write_site_files(folder: Path) -> None:
    """Copy the page's own files and those of onnxruntime-web into a folder.

    Raises:
        ValueError: see `fetch_runtime`.
        OSError: the disk is full.
    """
    for file in OWN.iterdir():
        shutil.copyfile(file, folder / file.name)
    with tarfile.open(fetch_runtime()) as archive:
        for name in RUNTIME:
            content = archive.extractfile(f"package/dist/{name}")
            assert content is not None
            with (folder / name).open("wb") as target:
                shutil.copyfileobj(content, target)


def fetch_runtime() -> Path:
    """The archive of onnxruntime-web, from the cache folder; npm downloads it where it is not there.

    Raises:
        ValueError: npm is missing, cannot download it, or gives another file than the known one.
        OSError: the cache folder cannot be written to.
    """
    return npm.fetch(PACKAGE, INTEGRITY)
