"""Modules to export, where worker processes find them too, and how to run the files."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nasdeploy.export.artifact import Artifact, TensorSpec
from nasdeploy.export.parity import from_layout, to_layout

CLASSES, PIXELS = 5, 32
Array = npt.NDArray[np.generic]


class Block(nn.Module):
    """An inverted residual with batch norm."""

    def __init__(self, inp: int, out: int, kernel: int, expand: int, stride: int) -> None:
        super().__init__()
        inner = inp * expand
        self.residual = stride == 1 and inp == out
        self.layers = nn.Sequential(
            *(nn.Conv2d(inp, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()),
            nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False),
            *(nn.BatchNorm2d(inner), nn.ReLU6()),
            *(nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layers(x)
        return x + y if self.residual else y


class Classifier(nn.Module):
    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.mean((2, 3), keepdim=True).flatten(1))
        return y


class Add(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b


class Concat(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.cat([a, b], 1)


class SingularValues(nn.Module):
    """No runtime has this."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.linalg.svdvals(x)
        return y


class Kills(nn.Module):
    """Ends the process that runs it, as a converter that crashes does."""

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, torch.fx.Proxy) and multiprocessing.parent_process() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return x + 1


def block(inp: int, out: int, kernel: int, expand: int, stride: int) -> nn.Module:
    return Block(inp, out, kernel, expand, stride)


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Noisy copies of one picture per class, (count, 3, PIXELS, PIXELS), and their labels."""
    pictures = torch.Generator().manual_seed(1234)
    coarse = torch.randn(CLASSES, 3, 4, 4, generator=pictures)
    coarse += 1.5 * torch.randn(CLASSES, 3, 1, 1, generator=pictures)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (count,), generator=generator)
    noise = torch.randn(count, 3, 4, 4, generator=generator)
    blurred = nn.functional.interpolate(
        coarse[labels] + 0.5 * noise, (PIXELS, PIXELS), mode="bilinear"
    )
    return blurred + 0.2 * torch.randn(count, 3, PIXELS, PIXELS, generator=generator), labels


def fitted_net() -> nn.Module:
    """A small network that survives int8: statistics from images, and a head in closed form.

    With random weights the outputs are noise around a constant, and int8 loses them everywhere.
    """
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6()),
        *(Block(16, 24, 3, 3, 2), Block(24, 24, 5, 3, 1), Block(24, 32, 3, 3, 2)),
        *(nn.Conv2d(32, 64, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU6()),
        Classifier(64, CLASSES),
    )
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    x, labels = images(160, seed=99)
    features: list[Tensor] = []
    head = net[-1]
    assert isinstance(head, Classifier)
    hook = head.linear.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.no_grad():
        net.train()(x)
        features.clear()
        net.eval()(x)
        hook.remove()
        design = torch.cat([features[0], torch.ones(len(x), 1)], 1)
        wanted = nn.functional.one_hot(labels, CLASSES).float() * 10 - 2
        ridge = design.T @ design + 3.0 * torch.eye(design.shape[1])
        solved = torch.linalg.solve(ridge, design.T @ wanted)
        head.linear.weight.copy_(solved[:-1].T)
        head.linear.bias.copy_(solved[-1])
    return net


def run_file(artifact: Artifact, *inputs: Tensor) -> Array:
    """The first output for images one by one, real values, channels first."""
    rows = []
    for row in range(len(inputs[0])):
        feed = [
            _stored(to_layout(tensor[row : row + 1].numpy(), spec), spec)
            for tensor, spec in zip(inputs, artifact.inputs, strict=True)
        ]
        rows.append(_RUN[artifact.runtime](artifact, feed))
    spec = artifact.outputs[0]
    stored = np.concatenate(rows)
    assert stored.dtype.name == spec.dtype
    assert stored.shape[1:] == spec.shape[1:]
    if spec.scale is not None and spec.zero_point is not None:
        stored = (stored.astype(np.float32) - spec.zero_point) * spec.scale
    return from_layout(stored, spec)


def _stored(real: Array, spec: TensorSpec) -> Array:
    if spec.scale is None or spec.zero_point is None:
        return np.ascontiguousarray(real)
    limits = np.iinfo(np.dtype(spec.dtype))
    steps = np.round(real.astype(np.float64) / spec.scale) + spec.zero_point
    return np.ascontiguousarray(steps.clip(limits.min, limits.max).astype(spec.dtype))


def _run_executorch(artifact: Artifact, feed: Sequence[Array]) -> Array:
    from executorch.extension.pybindings import portable_lib

    portable_lib._unsafe_reset_threadpool(1)
    module = portable_lib._load_for_executorch(str(artifact.path))
    tensors = [
        # (N, C, H, W) to ExecuTorch, with strides that say how it lies
        torch.from_numpy(array).permute(0, 3, 1, 2)
        if spec.layout == "NHWC"
        else torch.from_numpy(array)
        for array, spec in zip(feed, artifact.inputs, strict=True)
    ]
    result = module.forward(tensors)[0]
    if artifact.outputs[0].layout == "NHWC":
        result = result.permute(0, 2, 3, 1)
    copied: Array = result.numpy().copy()
    return copied


def _run_litert(artifact: Artifact, feed: Sequence[Array]) -> Array:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(artifact.path), num_threads=1)
    interpreter.allocate_tensors()
    for detail, array in zip(interpreter.get_input_details(), feed, strict=True):
        interpreter.set_tensor(detail["index"], array)
    interpreter.invoke()
    result: Array = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return result


def _run_onnxruntime(artifact: Artifact, feed: Sequence[Array]) -> Array:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(artifact.path), options)
    names = [spec.name for spec in artifact.inputs]
    result: Array = session.run(None, dict(zip(names, feed, strict=True)))[0]
    return result


_RUN = {
    "executorch": _run_executorch,
    "litert": _run_litert,
    "onnxruntime": _run_onnxruntime,
}
