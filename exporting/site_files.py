"""The files of a page beside its models: its own, and those of onnxruntime-web, which npm fetches once."""

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from inference.backends.exported import PARITY
from prompt_embeddings import DIRECTIONS
from storage import atomic_write, cache_folder, shortened

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
PATIENCE = 600  # seconds for 33 MB


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
    path = cache_folder() / f"{PACKAGE.replace('@', '-')}.tgz"
    if path.is_file() and _integrity(path) == INTEGRITY:
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            f"npm, which fetches {PACKAGE} for the page, is not installed: install it (apt-get install npm, or "
            "https://nodejs.org), then run the command again."
        )
    with atomic_write(path) as part, tempfile.TemporaryDirectory(dir=path.parent) as folder:
        command = [npm, "pack", PACKAGE, "--ignore-scripts", "--silent", "--pack-destination", folder]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=PATIENCE)
        except subprocess.TimeoutExpired as error:
            raise ValueError(
                f"npm did not fetch {PACKAGE} within {PATIENCE} seconds. Is its registry reached?"
            ) from error
        except subprocess.CalledProcessError as error:
            raise ValueError(
                f"npm could not fetch {PACKAGE}: {_reason(error.stderr)}. See `npm pack {PACKAGE}`."
            ) from error
        found = [*Path(folder).glob("*.tgz")]
        if len(found) != 1 or _integrity(found[0]) != INTEGRITY:
            raise ValueError(
                f"npm gave another file for {PACKAGE} than its known one (sha512): it is not used. Is another registry "
                "configured (npm config get registry)?"
            )
        shutil.copyfile(found[0], part)
    return path


def _integrity(path: Path) -> str:
    """The digest by which npm knows a package."""
    return base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()


def _reason(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return shortened(lines[-1]) if lines else "it says no reason"
