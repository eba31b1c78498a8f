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
from typing import TYPE_CHECKING, Any

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
from nasdeploy.export.depthwise import split_depthwise
from nasdeploy.export.pools import (
    as_convolution,
    average_pool,
    padded_pool,
    pooled_then_thinned,
    rewritten,
)
from nasdeploy.export.quantise import check_request, rows_of

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGES = ("torch", "litert-torch", "ai-edge-quantizer", "ai-edge-litert")
_SCHEME = (
    "ai-edge-quantizer static_wi8_ai8, min-max: weights int8 symmetric per channel, "
    "activations int8 per tensor"
)
_LOWEST_INT8 = -128
_QUANTISE_VERSION = 2


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
        copied = split_depthwise(copied, example_input)
        copied = _norms_as_products(_pools_in_its_words(copied, example_input, precision))
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
    images = [i for i, tensor in enumerate(example_input) if tensor.ndim == 4]
    results = [i for i, rank in enumerate(output_ranks) if rank == 4]
    # The wrapper starts in training mode, whatever it wraps.
    wrapped = litert_torch.to_channel_last_io(model, args=images, outputs=results).eval()
    edge = litert_torch.convert(wrapped, tuple(map(_channels_last, example_input)))
    with scratch_folder() as folder:
        edge.export(str(folder / "fp32.tflite"))
        return (folder / "fp32.tflite").read_bytes()


def _pools_in_its_words(
    model: nn.Module, example_input: tuple[Tensor, ...], precision: Precision
) -> nn.Module:
    """No pools that would be left to plain kernels, which take far longer.

    XNNPACK takes no average pool in int8, nor the padding before a max pool with a stride. In fp32
    the converter computes windows' sums and sizes where an average pool with a stride leaves its
    padding out.
    """
    if precision == "int8":
        model = rewritten(model, example_input, average_pool, as_convolution)
        return rewritten(model, example_input, _halving, pooled_then_thinned)
    return rewritten(model, example_input, _leaves_padding_out, padded_pool)


def _leaves_padding_out(part: nn.Module) -> bool:
    import torch

    if not isinstance(part, torch.nn.AvgPool2d):
        return False
    padded = any((part.padding,) if isinstance(part.padding, int) else part.padding)
    uncounted = not part.count_include_pad and part.divisor_override is None
    return uncounted and _side(part.stride) > 1 and (padded or part.ceil_mode)


def _halving(part: nn.Module) -> bool:
    """A max pool with a stride, whose padding keeps the size but for it."""
    import torch

    if not isinstance(part, torch.nn.MaxPool2d) or part.ceil_mode or part.dilation != 1:
        return False
    kernel, padding = _side(part.kernel_size), _side(part.padding)
    return _side(part.stride) > 1 and padding > 0 and kernel == 2 * padding + 1


def _norms_as_products(model: nn.Module) -> nn.Module:
    """Batch norms, changed in place, as one product and one sum.

    By itself the converter finds other operators for a batch norm whose shift is zero, as before
    training, and XNNPACK takes one of them in fp32 only: what is measured before training would
    not be what ships. Behind a convolution both disappear in its weights.
    """
    import torch

    for norm in [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]:
        if "forward" in vars(norm):  # a split convolution has it in its weights
            continue
        scale = (norm.get_buffer("running_var") + norm.eps).rsqrt()
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.get_buffer("running_mean") * scale
        shift = shift if norm.bias is None else shift + norm.bias
        norm.register_buffer("scale", scale[:, None, None])
        norm.register_buffer("shift", shift[:, None, None])
        # its other methods stay, since modules may call them
        norm.forward = functools.partial(_affine, norm)  # type: ignore[method-assign]
    return model


def _affine(norm: nn.Module, x: Tensor) -> Tensor:
    return x * norm.get_buffer("scale") + norm.get_buffer("shift")


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
    ranges = observer.get_model_qsvs()
    for seen in ranges.values():
        # XNNPACK takes no scale that is very unlike the result's, as one of nothing but zeros is
        if not (seen["min"].any() or seen["max"].any()):
            seen["max"] = seen["max"] + 1
    result = quantiser.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return _requantising_relus(bytes(result.quantized_model))


def _requantising_relus(content: bytes) -> bytes:
    """ReLUs from int8 to int8 as what they are there: another scale, whose lowest number is zero.

    Such a ReLU is left over where it stands before a convolution, since XNNPACK takes none in int8;
    the plain kernel takes far longer than XNNPACK's change of scale.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    relu, quantise = schema.BuiltinOperator.RELU, schema.BuiltinOperator.QUANTIZE
    model = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = quantise
    code.version = _QUANTISE_VERSION
    changed = False
    for graph in model.subgraphs:
        for operator in graph.operators:
            source, end = (graph.tensors[i[0]] for i in (operator.inputs, operator.outputs))
            int8 = source.type == end.type == schema.TensorType.INT8
            if model.operatorCodes[operator.opcodeIndex].builtinCode != relu or not int8:
                continue
            if end.quantization.zeroPoint[0] != _LOWEST_INT8:
                continue
            operator.opcodeIndex = len(model.operatorCodes)
            operator.builtinOptionsType = schema.BuiltinOptions.QuantizeOptions
            operator.builtinOptions = schema.QuantizeOptionsT()
            changed = True
    if not changed:
        return content
    model.operatorCodes.append(code)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


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
