"""LiteRT's Python interpreter as a runner: ``python -m ... JOB``.

Needs ai-edge-litert and nothing else (0.1 s to import).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from nasdeploy.device_agent.runners import loop


class LiteRT:
    def __init__(self, threads: int) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import ai_edge_litert
        from ai_edge_litert.interpreter import Interpreter

        self.version: str = ai_edge_litert.__version__
        self._interpreter = Interpreter
        self._threads = threads

    def load(self, path: str) -> LiteRTModel:
        return LiteRTModel(self._interpreter(path, num_threads=self._threads))


class LiteRTModel:
    """`Interpreter.invoke` runs the first subgraph, the only one that our files have."""

    def __init__(self, interpreter: Any) -> None:
        interpreter.allocate_tensors()
        self._interpreter = interpreter
        self._inputs = interpreter.get_input_details()
        self._outputs = interpreter.get_output_details()
        for tensor in self._inputs:
            noise = loop.sample_input(tensor["shape"], tensor["dtype"])
            interpreter.set_tensor(tensor["index"], noise)
        self.run = interpreter.invoke

    def prepare(self) -> None:
        """Nothing to do: the interpreter never writes over its inputs."""

    def infer(self, inputs: Sequence[loop.Array]) -> list[loop.Array]:
        for tensor, image in zip(self._inputs, inputs, strict=True):
            if tensor["dtype"] is not image.dtype.type:
                image = loop.quantised(image, tensor["dtype"], *tensor["quantization"])
            self._interpreter.set_tensor(tensor["index"], image)
        self.run()
        return [self._output(tensor) for tensor in self._outputs]

    def _output(self, tensor: Any) -> loop.Array:
        stored: loop.Array = self._interpreter.get_tensor(tensor["index"])
        if stored.dtype.kind == "f":
            return stored
        return loop.dequantised(stored, *tensor["quantization"])


if __name__ == "__main__":
    loop.main("litert", LiteRT)
