"""LiteRT, .tflite: litert-torch converts, ai-edge-quantizer quantises the written file.

Images come and go channels last (NHWC): a phone's camera gives them so, and the converter would
otherwise put a transpose at each edge. int8 weights are per channel and symmetric, activations per
tensor and asymmetric, the same on arm64 and x86-64.

The quantiser's own ``calibrate`` keeps a moving average with weight 0.95 on the past, so that 16
images count little more than the first (mobilenet_v2: 8.9 dB); here it takes the true minimum and
maximum (27.1 dB).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nasdeploy.durable import replacing
from nasdeploy.errors import ExportError
from nasdeploy.export.artifact import Artifact, Calibration, Precision, Target, TensorSpec
from nasdeploy.export.conversion import (
    converting,
    describe,
    layout_of,
    output_ranks,
    prepared,
    scratch_folder,
)
from nasdeploy.export.quantise import check_request, rows_of

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGES = ("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert")
_SCHEME = (
    "ai-edge-quantizer static_wi8_ai8, min-max: weights int8 symmetric per channel, "
    "activations int8 per tensor"
)


def export_litert(
    model: nn.Module,
    example_input: tuple[Tensor, ...],
    path: Path,
    *,
    precision: Precision,
    target: Target,
    calibration: Calibration | None = None,
    quantised_io: bool = False,
) -> Artifact:
    """Write one .tflite file, NHWC for images, with one signature; see `Exporter`."""
    check_request(precision, quantised_io)
    copied = prepared(model, example_input)
    ranks = output_ranks(copied, example_input)
    rows = list(rows_of(calibration, example_input)) if precision == "int8" else []
    with converting("litert"):
        content = _converted(copied, example_input, ranks)
        if precision == "int8":
            content = _quantised(content, rows, quantised_io)
        with replacing(path) as temporary:
            temporary.write_bytes(content)
            inputs, outputs, share = _read_back(temporary)
            return describe(
                path,
                temporary,
                runtime="litert",
                precision=precision,
                target=target,
                inputs=inputs,
                outputs=outputs,
                scheme=_SCHEME,
                calibration=calibration,
                delegated_share=share,
                packages=PACKAGES,
            )


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 2, 3, 1).contiguous() if tensor.ndim == 4 else tensor


def _converted(
    model: nn.Module, example_input: tuple[Tensor, ...], output_ranks: Sequence[int]
) -> bytes:
    import litert_torch

    _keep_channels_last()
    model = _pad_pools(model, example_input)
    images = [i for i, tensor in enumerate(example_input) if tensor.ndim == 4]
    results = [i for i, rank in enumerate(output_ranks) if rank == 4]
    # The wrapper starts in training mode, whatever it wraps.
    wrapped = litert_torch.to_channel_last_io(model, args=images, outputs=results).eval()
    edge = litert_torch.convert(wrapped, tuple(map(_channels_last, example_input)))
    with scratch_folder() as folder:
        edge.export(str(folder / "fp32.tflite"))
        return (folder / "fp32.tflite").read_bytes()


def _pad_pools(model: nn.Module, example_input: tuple[Tensor, ...]) -> nn.Module:
    """Write an average pool that doesn't count its padding as one that does, times a constant.

    With stride 1 the format has it; else the converter would compute the windows' sums and sizes in
    an operator that no delegate takes and that cannot be quantised.
    """
    import torch
    from torch.nn import functional

    class PaddedPool(torch.nn.Module):
        def __init__(self, pool: nn.AvgPool2d, size: Sequence[int]) -> None:
            super().__init__()
            self.kernel, self.stride = pool.kernel_size, pool.stride
            ones = torch.ones(1, 1, *size)
            counted = pool(ones)
            before = pool.padding if isinstance(pool.padding, int) else max(pool.padding)
            kernel, stride = _side(self.kernel), _side(self.stride)
            behind = [
                max(0, (out - 1) * stride + kernel - before - inside)
                for out, inside in zip(counted.shape[2:], size, strict=True)
            ]
            self.padding = (before, behind[1], before, behind[0])
            whole = functional.avg_pool2d(functional.pad(ones, self.padding), kernel, stride)
            self.register_buffer("correction", counted / whole)

        def forward(self, x: Tensor) -> Tensor:
            padded = functional.pad(x, self.padding)
            pooled = functional.avg_pool2d(padded, self.kernel, self.stride)
            return pooled * cast("Tensor", self.correction)

    root = torch.nn.ModuleList([model])  # so that every pool has a parent
    sizes: dict[str, set[tuple[int, ...]]] = {}
    hooks = []
    for name, part in root.named_modules():
        if isinstance(part, torch.nn.AvgPool2d) and _needs_padding(part):
            seen = sizes.setdefault(name, set())
            hooks.append(
                part.register_forward_pre_hook(
                    lambda _, inputs, seen=seen: seen.add(tuple(inputs[0].shape[2:]))
                )
            )
    with torch.no_grad():
        model(*example_input)
    for hook in hooks:
        hook.remove()
    for name, seen in sizes.items():
        if len(seen) == 1:
            parent, _, child = name.rpartition(".")
            pool = cast("nn.AvgPool2d", root.get_submodule(name))
            setattr(root.get_submodule(parent), child, PaddedPool(pool, next(iter(seen))))
    return root[0].eval()


def _needs_padding(pool: nn.AvgPool2d) -> bool:
    padded = any((pool.padding,) if isinstance(pool.padding, int) else pool.padding)
    uncounted = not pool.count_include_pad and pool.divisor_override is None
    return uncounted and _side(pool.stride) > 1 and (padded or pool.ceil_mode)


def _side(size: int | Sequence[int]) -> int:
    """Of a square window or stride."""
    return size if isinstance(size, int) else max(size)


@functools.cache
def _keep_channels_last() -> None:
    """Let concatenations, means and paddings stay NHWC, even where no convolution asks for it.

    Alone in a file they would get a transpose at each edge, which they don't have in a network.
    """
    import torch
    from litert_torch._convert.fx_passes.optimize_layout_transposes_pass import (
        layout_check,
        layout_rewrite,
    )

    def four_dimensions(node: Any) -> Any:
        can_be = layout_check.is_4d(node) and layout_check.all_layout_sensitive_inputs_are_4d(node)
        return layout_check.NHWCable(can_be, must_be=can_be)

    def pad_behind_channels(node: Any) -> None:
        image, amounts, *others = node.args
        node.args = (image, [0, 0, *amounts], *others)

    pad = torch.ops.aten.constant_pad_nd.default
    for operator in (torch.ops.aten.cat.default, torch.ops.aten.mean.dim, pad):
        layout_check.nhwcable_node_checkers[operator] = four_dimensions
    layout_rewrite.rewriters[pad] = pad_behind_channels


def _quantised(content: bytes, rows: Sequence[tuple[Tensor, ...]], quantised_io: bool) -> bytes:
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.utils import qsv_utils

    # The quantiser keeps the buffer that it is given and writes into it.
    quantiser = quantizer.Quantizer(bytearray(content))
    quantiser.load_quantization_recipe(recipe.static_wi8_ai8())
    if not quantised_io:
        for edge in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            quantiser.update_quantization_recipe(
                ".*", edge, algorithm_key=AlgorithmName.NO_QUANTIZE
            )
    ((signature, arguments),) = Interpreter(model_content=content).get_signature_list().items()
    names = sorted(arguments["inputs"], key=_argument_index)
    data = [
        {name: _channels_last(tensor).numpy() for name, tensor in zip(names, row, strict=True)}
        for row in rows
    ]
    observer = calibrator.Calibrator(
        bytearray(content), num_threads=1, qsv_update_func=qsv_utils.min_max_update
    )
    # Its public `calibrate` takes no update function, and its recipe has no public name.
    observer.calibrate({signature: data}, quantiser._recipe_manager)
    result = quantiser.quantize(
        observer.get_model_qsvs(), enable_progress_bar=False, enable_progress_report=False
    )
    return bytes(result.quantized_model)


def _argument_index(name: str) -> int:
    return int(name.rpartition("_")[2])


def _read_back(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], float]:
    """What the file at `path` takes and gives, and how much of it XNNPACK takes over."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    arguments = interpreter.get_input_details()
    for index, detail in enumerate(arguments):
        if f"args_{index}" not in detail["name"]:
            raise ExportError(
                f"litert put the inputs into another order than the model's: "
                f"{[detail['name'] for detail in arguments]}. Give the model fewer than 10 inputs."
            )
    inputs = tuple(_spec(f"input_{i}", detail) for i, detail in enumerate(arguments))
    outputs = tuple(
        _spec(f"output_{i}", detail) for i, detail in enumerate(interpreter.get_output_details())
    )
    return inputs, outputs, _delegated_share(interpreter)


def _spec(name: str, detail: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(int(size) for size in detail["shape"])
    dtype = detail["dtype"].__name__
    layout = layout_of(len(shape), "NHWC")
    if dtype == "float32":
        return TensorSpec(name, shape, dtype, layout)
    scale, zero_point = detail["quantization"]
    return TensorSpec(name, shape, dtype, layout, float(scale), int(zero_point))


def _delegated_share(interpreter: Any) -> float:
    """Share of the operators that no plain kernel runs.

    The interpreter lists the operators of the file and, behind them, the delegate's own. Walking
    back from the outputs, a tensor that the delegate makes ends in the delegate's inputs; one that
    it does not make is made by an operator that was left over.
    """
    operators = interpreter._get_ops_details()
    plain = [operator for operator in operators if operator["op_name"] != "DELEGATE"]
    makers = {int(out): operator for operator in plain for out in operator["outputs"]}
    for operator in operators:
        if operator["op_name"] == "DELEGATE":
            makers.update({int(out): operator for out in operator["outputs"]})
    waiting = [int(detail["index"]) for detail in interpreter.get_output_details()]
    seen: set[int] = set()
    left_over: set[int] = set()
    while waiting:
        tensor = waiting.pop()
        if tensor in seen or tensor not in makers:
            continue
        seen.add(tensor)
        operator = makers[tensor]
        if operator["op_name"] != "DELEGATE":
            left_over.add(int(operator["index"]))
        waiting.extend(int(source) for source in operator["inputs"])
    return 1 - len(left_over) / len(plain) if plain else 1.0
