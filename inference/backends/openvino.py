"""Open and run OpenVINO models."""

import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino

    from images.ranges import Array
    from inference.backends.exported import Inputs, Model

TELEMETRY = "openvino_telemetry"
XML = b"<?xml"
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "bf16"}  # of what is not quantized


def import_openvino() -> ModuleType:
    """Import OpenVINO without its telemetry, which reports to Google Analytics unless each user opts out.

    Its converter and NNCF do without where the package cannot be imported.

    Raises:
        ValueError: OpenVINO is not installed.
    """
    sys.modules.setdefault(TELEMETRY, None)  # type: ignore[arg-type]  # how Python marks what must not be imported
    try:
        import openvino
    except ImportError as error:
        raise ValueError("OpenVINO is not installed: pip install -e '.[export]' adds it.") from error
    return openvino


@cache
def _core() -> "openvino.Core":
    """The one core of this process: a core that is freed unloads its plugins, after which signals ended the process."""
    return import_openvino().Core()


def load_runtime(device: str) -> tuple[tuple["openvino.Core", str], str]:
    """OpenVINO's core with the name of a device, and the name as it is written elsewhere.

    Args:
        device: "auto" is the CPU; else one that OpenVINO sees, such as "cpu" or "gpu" (Intel's).

    Raises:
        ValueError: OpenVINO is not installed, or there is no such device.
    """
    import_openvino()
    core = _core()
    name = "CPU" if device == "auto" else device.upper()
    if name not in core.available_devices:
        there = ", ".join(found.lower() for found in core.available_devices)
        raise ValueError(f"No device {device!r} for OpenVINO here: it has {there}.")
    return (core, name), name.lower()


class _Compiled:
    """A model compiled for the shapes of its first call, or for any shape once a call has others.

    Fixed shapes are faster (benchmarks/README.md, "Translation").  Only one of the two is in memory: each holds all
    weights.
    """

    def __init__(self, core: "openvino.Core", device: str, path: Path, precision: str) -> None:
        self._core, self._device, self._path = core, device, path
        self._config = {"INFERENCE_PRECISION_HINT": HINTS[precision]}
        self._model: openvino.Model | None = core.read_model(path)
        self.inputs = {name for port in self._model.inputs for name in port.names}
        self._shapes: dict[str, list[int]] | None = None
        self._request: openvino.InferRequest | None = None

    def __call__(self, inputs: "Inputs") -> "Array":
        shapes = {name: [*array.shape] for name, array in inputs.items()}
        if self._model is not None:
            for port in self._model.inputs:  # `reshape` would change fixed sizes, too
                wanted = shapes[port.any_name]
                if not port.partial_shape.compatible(import_openvino().PartialShape(wanted)):
                    raise ValueError(f"its {port.any_name} has the shape {port.partial_shape}, this one has {wanted}")
            self._model.reshape(shapes)
            self._shapes = shapes
            self._compile(self._model)
            self._model = None
        elif self._shapes is not None and shapes != self._shapes:
            self._shapes = self._request = None
            self._compile(self._core.read_model(self._path))
        assert self._request is not None
        result = self._request.infer(inputs, share_inputs=True)
        return result[self._output]

    def _compile(self, model: "openvino.Model") -> None:
        compiled = self._core.compile_model(model, self._device, self._config)
        self._output = compiled.output(0)
        self._request = compiled.create_infer_request()


def open_model(runtime: tuple["openvino.Core", str], path: Path, precision: str) -> tuple["Model", set[str]]:
    """A model, and the names of its inputs.

    Args:
        runtime: of `load_runtime`.
        path: of an .xml, whose weights stand in a .bin beside it.
        precision: "float32"; or "bfloat16" or "int8", whose other layers compute in bfloat16 where the CPU has it.
    """
    with path.open("rb") as file:
        if file.read(len(XML)) != XML:  # else OpenVINO tries its readers of other formats on it
            raise ValueError("it is no XML")
    model = _Compiled(*runtime, path, precision)
    return model, model.inputs
