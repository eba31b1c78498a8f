"""ExecuTorch's Python extension as a runner: ``python -m ... JOB``.

Imports torch and the C extension only: `executorch.runtime` would pull in the whole exporter and
take four times as long.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from nasdeploy.device_agent.runners import loop

# c10::ScalarType, which is what a method's description carries
_DTYPES: dict[int, type[np.number[Any]]] = {
    0: np.uint8,
    1: np.int8,
    3: np.int32,
    4: np.int64,
    6: np.float32,
}


class ExecuTorch:
    """`threads` holds for the process: ExecuTorch has one thread pool."""

    def __init__(self, threads: int) -> None:
        import executorch.kernels.quantized  # noqa: F401 - for its side effect, int8 kernels
        import torch
        from executorch.extension.pybindings import _C
        from executorch.version import __version__

        # the calling thread's time is what is reported, so torch must not start any of its own
        torch.set_num_threads(1)
        _C._unsafe_reset_threadpool(threads)
        self.version: str = __version__
        self._load_program = _C._load_program

    def load(self, path: str) -> ExecuTorchModel:
        return ExecuTorchModel(self._load_program(path))


class ExecuTorchModel:
    """The method "forward"; program and tensors are kept, since it points into them."""

    def __init__(self, program: Any) -> None:
        import torch

        self._from_numpy = torch.from_numpy
        self._program = program
        self._method = program.load_method("forward")
        described = self._method.method_meta()
        metas = [described.input_tensor_meta(i) for i in range(described.num_inputs())]
        self._dtypes = [_dtype(meta) for meta in metas]
        # an image that lies channels last is read as it lies, so noise needs no turning
        self._noise = [
            torch.from_numpy(loop.sample_input(meta.sizes(), dtype))
            for meta, dtype in zip(metas, self._dtypes, strict=True)
        ]
        self.run = self._method.execute

    def prepare(self) -> None:
        """Set the inputs again: the memory plan may have given their place to an activation."""
        self._method.set_inputs(self._noise)

    def infer(self, inputs: Sequence[loop.Array]) -> list[loop.Array]:
        """Of a file whose images lie channels last: (1, H, W, C), in and out."""
        stored = [
            self._quantised(index, image) if dtype is not np.float32 else image
            for index, (image, dtype) in enumerate(zip(inputs, self._dtypes, strict=True))
        ]
        self._method.set_inputs([self._placed(index, a) for index, a in enumerate(stored)])
        self._method.execute()
        outputs = [
            tensor.numpy() if tensor.is_contiguous() else tensor.permute(0, 2, 3, 1).numpy()
            for tensor in self._method.get_outputs(True)
        ]
        return [
            self._dequantised(index, a) if a.dtype.kind != "f" else a
            for index, a in enumerate(outputs)
        ]

    def _placed(self, index: int, stored: loop.Array) -> Any:
        tensor = self._from_numpy(np.ascontiguousarray(stored))
        name = f"forward_input{index}_channels_last"
        last = name in self._known and self._constant(name)
        return tensor.permute(0, 3, 1, 2) if last else tensor

    def _quantised(self, index: int, image: loop.Array) -> loop.Array:
        scale, zero_point = self._scale_and_zero_point(f"input{index}")
        return loop.quantised(image, self._dtypes[index], scale, zero_point)

    def _dequantised(self, index: int, stored: loop.Array) -> loop.Array:
        return loop.dequantised(stored, *self._scale_and_zero_point(f"output{index}"))

    def _scale_and_zero_point(self, tensor: str) -> tuple[float, int]:
        """What executorch's `QuantizeInputs` and `QuantizeOutputs` leave behind: tiny methods."""
        for prefix in ("", "forward_"):
            names = f"{prefix}{tensor}_scale", f"{prefix}{tensor}_zp"
            if self._known.issuperset(names):
                return self._constant(names[0]), int(self._constant(names[1]))
        raise TypeError(
            f"the file has quantised inputs or outputs and no method {tensor}_scale that says how; "
            "export it with float ones to compare outputs"
        )

    @cached_property
    def _known(self) -> set[str]:
        return {self._program.get_method_name(i) for i in range(self._program.num_methods())}

    def _constant(self, name: str) -> float:
        method = self._program.load_method(name)
        method.execute()
        return float(method.get_outputs(True)[0])


def _dtype(meta: Any) -> type[np.number[Any]]:
    if meta.dtype() not in _DTYPES:
        raise TypeError(f"an input has the type number {meta.dtype()}; known are {_DTYPES}")
    return _DTYPES[meta.dtype()]


if __name__ == "__main__":
    loop.main("executorch", ExecuTorch)
