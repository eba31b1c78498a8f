"""The exporters by the runtime that they write for. A new one is a file and a line here.

Importing them is cheap: each imports its converter when it is called.
"""

from __future__ import annotations

from nasdeploy.errors import UnknownName
from nasdeploy.export.artifact import Exporter
from nasdeploy.export.executorch import export_executorch
from nasdeploy.export.litert import export_litert
from nasdeploy.export.onnx import export_onnx

EXPORTERS: dict[str, Exporter] = {
    "executorch": export_executorch,
    "litert": export_litert,
    "onnxruntime": export_onnx,
}

SUFFIX = {"executorch": ".pte", "litert": ".tflite", "onnxruntime": ".onnx"}
"""How a runtime's files end."""


def exporter(runtime: str) -> Exporter:
    """The exporter for `runtime`; `UnknownName` if there is none."""
    if runtime not in EXPORTERS:
        raise UnknownName("runtime", runtime, EXPORTERS)
    return EXPORTERS[runtime]
