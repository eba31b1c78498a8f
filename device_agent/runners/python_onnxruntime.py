"""ONNX Runtime's Python API as a runner: ``python -m ... JOB``.

Needs onnxruntime and nothing else (0.2 s to import). Inputs and outputs are bound once to memory
that stays, so that a timed call allocates and copies nothing at the edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from nasdeploy.device_agent.runners import loop

_DTYPES: dict[str, type[np.number[Any]]] = {
    "tensor(float)": np.float32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int64)": np.int64,
}
_SEVERE = 3  # onnxruntime's number for errors: its warnings about graphs are not the user's


class OnnxRuntime:
    def __init__(self, threads: int) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(_SEVERE)
        self.version: str = onnxruntime.__version__
        self._onnxruntime = onnxruntime
        self._threads = threads

    def load(self, path: str) -> OnnxModel:
        options = self._onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = _SEVERE
        session = self._onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"]
        )
        return OnnxModel(session, self._onnxruntime.OrtValue)


class OnnxModel:
    def __init__(self, session: Any, ort_value: Any) -> None:
        self._session = session
        self._inputs = session.get_inputs()
        self._outputs = session.get_outputs()
        binding = session.io_binding()
        self._bound = []
        for tensor in self._inputs:
            noise = loop.sample_input(_static_shape(tensor), _dtype(tensor))
            value = ort_value.ortvalue_from_numpy(noise)
            binding.bind_ortvalue_input(tensor.name, value)
            self._bound.append(value)
        for tensor in self._outputs:
            value = ort_value.ortvalue_from_shape_and_type(_static_shape(tensor), _dtype(tensor))
            binding.bind_ortvalue_output(tensor.name, value)
            self._bound.append(value)
        self.run = partial(session.run_with_iobinding, binding)

    def prepare(self) -> None:
        """Nothing to do: a session never writes over what is bound as an input."""

    def infer(self, inputs: Sequence[loop.Array]) -> list[loop.Array]:
        for tensor in (*self._inputs, *self._outputs):
            if tensor.type != "tensor(float)":
                raise TypeError(
                    f"{tensor.name} is {tensor.type}, and an .onnx file does not say the scale of "
                    "its inputs and outputs; export it with float ones to compare outputs"
                )
        names = [tensor.name for tensor in self._inputs]
        feed = dict(zip(names, inputs, strict=True))
        outputs: list[loop.Array] = self._session.run(None, feed)
        return outputs


def _dtype(tensor: Any) -> type[np.number[Any]]:
    if tensor.type not in _DTYPES:
        raise TypeError(f"{tensor.name} is {tensor.type}; known are {', '.join(_DTYPES)}")
    return _DTYPES[tensor.type]


def _static_shape(tensor: Any) -> list[int]:
    if not all(isinstance(size, int) for size in tensor.shape):
        raise ValueError(f"{tensor.name} has the open shape {tensor.shape}; export it with a fixed")
    return list(tensor.shape)


if __name__ == "__main__":
    loop.main("onnxruntime", OnnxRuntime)
