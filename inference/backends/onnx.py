"""Open and run ONNX files by ONNX Runtime."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from images.ranges import Array
    from inference.backends.exported import Inputs, Model

FATAL_ONLY = 4  # severity of what the runtime prints; errors come as exceptions


def load_runtime(device: str) -> tuple[list[str | tuple[str, dict[str, str]]], str]:
    """The execution providers of a device, and its name.

    Args:
        device: "auto" and "cpu" are the CPU; "cuda" or "cuda:1" need the package onnxruntime-gpu.

    Raises:
        ValueError: ONNX Runtime is not installed, or there is no such device.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError("ONNX Runtime is not installed: pip install -e '.[export]' adds it.") from error
    if device in ("auto", "cpu"):
        return ["CPUExecutionProvider"], "cpu"
    kind, _, index = device.partition(":")
    found = onnxruntime.get_available_providers()
    if kind == "cuda" and "CUDAExecutionProvider" in found and index.isdigit() | (not index):
        return [("CUDAExecutionProvider", {"device_id": index or "0"}), "CPUExecutionProvider"], device
    raise ValueError(f"No device {device!r} for ONNX Runtime here: it has {', '.join(found)}. Use cpu.")


def open_model(
    providers: list[str | tuple[str, dict[str, str]]], path: Path, precision: str
) -> tuple["Model", set[str]]:
    """A session over a file, and the names of its inputs.

    Args:
        providers: of `load_runtime`.
        path: of an .onnx, whose weights may stand in a file beside it.
        precision: "float32", the only one of ONNX files here.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = FATAL_ONLY
    session = onnxruntime.InferenceSession(os.fspath(path), options, providers)

    def run(inputs: "Inputs") -> "Array":
        return session.run(None, inputs)[0]

    return run, {port.name for port in session.get_inputs()}
