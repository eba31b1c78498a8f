"""ExecuTorch, .pte: torch.export, PT2E quantisation for XNNPACK, one delegated program.

int8 weights are per channel and symmetric, activations per tensor and asymmetric, the same on arm64
and x86-64. Activations are observed by their minimum and maximum: the quantiser's default, a
histogram, costs 1.5 to 1.9 CPU-seconds a 224-pixel image.

The format has no place for the scale of an input. A file with quantised inputs and outputs carries
them as constant methods beside ``forward``: ``forward_input0_scale``, ``forward_input0_zp``,
``forward_output0_scale``, ``forward_output0_zp``, and so on.

Such a file reads and writes images channels last, as XNNPACK's operators do among themselves. To
turn an int8 image costs as much as a small operator, and a network does it once. The format knows
that layout, but Python is not told of it: ``forward_input0_channels_last`` is 1 there.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.durable import replacing
from nasdeploy.errors import ExportError
from nasdeploy.export.artifact import Artifact, Calibration, Precision, Target, TensorSpec
from nasdeploy.export.conversion import converting, describe, layout_of, output_ranks, prepared
from nasdeploy.export.depthwise import split_depthwise
from nasdeploy.export.pools import as_convolution, average_pool, rewritten
from nasdeploy.export.quantise import check_request, rows_of

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGES = ("torch", "executorch", "torchao")
_DTYPES = {0: "uint8", 1: "int8", 6: "float32"}  # executorch/schema/scalar_type.fbs
_SCHEME = (
    "PT2E XNNPACKQuantizer, min-max: weights int8 symmetric per channel, "
    "activations int8 per tensor"
)


def export_executorch(
    model: nn.Module,
    example_input: tuple[Tensor, ...],
    path: Path,
    *,
    precision: Precision,
    target: Target,
    calibration: Calibration | None = None,
    quantised_io: bool = False,
) -> Artifact:
    """Write one .pte file with one method, ``forward``, NCHW (int8 at its edges: NHWC); see
    `Exporter`."""
    check_request(precision, quantised_io)
    copied = prepared(model, example_input)
    output_ranks(copied, example_input)
    rows = list(rows_of(calibration, example_input)) if precision == "int8" else []
    with converting("executorch"):
        import torch
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        constants: dict[str, float | int] = {}
        # XNNPACK takes no pool that rounds up; the portable kernel takes far longer
        copied = rewritten(copied, example_input, _rounds_up, as_convolution)
        copied = split_depthwise(copied, example_input)
        if precision == "int8":
            if quantised_io:
                example_input = tuple(_channels_last(tensor) for tensor in example_input)
            program = _quantised(copied, example_input, rows, quantised_io)
            if quantised_io:
                constants = _open_edges(program)
        else:
            program = torch.export.export(copied, example_input)
        lowered = to_edge_transform_and_lower(
            program, partitioner=[XnnpackPartitioner()], constant_methods=constants
        )
        share = _delegated_share(lowered.exported_program().graph_module)
        with replacing(path) as temporary:
            temporary.write_bytes(lowered.to_executorch().buffer)
            inputs, outputs = _read_back(temporary)
            return describe(
                path,
                temporary,
                runtime="executorch",
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
    import torch

    return tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _lies_channels_last(tensor: Tensor) -> bool:
    """With one channel or one pixel both layouts are the same, and that of the shape counts."""
    import torch

    return (
        tensor.ndim == 4
        and not tensor.is_contiguous()
        and tensor.is_contiguous(memory_format=torch.channels_last)
    )


def _rounds_up(part: nn.Module) -> bool:
    return average_pool(part) and bool(part.ceil_mode)


def _quantised(
    model: nn.Module,
    example_input: tuple[Tensor, ...],
    rows: Sequence[tuple[Tensor, ...]],
    quantised_io: bool,
) -> Any:
    import torch
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    graph = torch.export.export(model, example_input).module()
    observed = prepare_pt2e(graph, _quantiser(quantised_io))
    with torch.no_grad():
        for row in rows:
            observed(*row)
    with _nothing_trained_quantised():
        converted = convert_pt2e(observed)
    return torch.export.export(converted, example_input)


@contextlib.contextmanager
def _nothing_trained_quantised() -> Iterator[None]:
    """Let a conversion not look for convolutions with batch norms that were trained quantised.

    It traces 96 graphs to look for wherever a batch norm is left that no convolution took in, which
    can take longer than the rest of an export. Nothing is trained quantised here, so it finds none.
    """
    from torchao.quantization.pt2e import quantize_pt2e

    looks_for_them = quantize_pt2e._fold_conv_bn_qat
    quantize_pt2e._fold_conv_bn_qat = lambda model: model
    try:
        yield
    finally:
        quantize_pt2e._fold_conv_bn_qat = looks_for_them


def _quantiser(edges: bool) -> Any:
    """XNNPACK's quantiser; with `edges`, every input and output is quantised, come what may.

    Left to itself it quantises an input only where an int8 operator takes it, so that an average
    pool at the beginning stays float. Inside a network that pool gets int8 from its neighbour.
    """
    from executorch.backends.xnnpack.quantizer import xnnpack_quantizer
    from torchao.quantization.pt2e.observer import MinMaxObserver

    configuration = xnnpack_quantizer.get_symmetric_quantization_config(is_per_channel=True)
    activation = replace(
        configuration.input_activation,
        observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=2**-12),
    )
    quantiser = _quantiser_class()(activation if edges else None)
    return quantiser.set_global(
        replace(configuration, input_activation=activation, output_activation=activation)
    )


@functools.cache
def _quantiser_class() -> Any:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation
    from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

    class Quantiser(XNNPACKQuantizer):  # type: ignore[misc]
        # The patterns with batch norm serve training with quantisation only; looking for them
        # traces a dozen graphs and would cost 2 CPU-seconds a model.
        SUPPORTED_PATTERNS = tuple(p for p in XNNPACKQuantizer.SUPPORTED_PATTERNS if not p.is_qat)

        def __init__(self, edge_spec: Any) -> None:
            super().__init__()
            self.edge_spec = edge_spec

        def annotate(self, model: Any) -> Any:
            # Inputs before the rest, which a max pool takes its scale from; outputs behind it.
            inputs = [node for node in model.graph.nodes if node.op == "placeholder"]
            self._quantise(inputs)
            model = super().annotate(model)
            self._quantise(model.graph.output_node().all_input_nodes)
            return model

        def _quantise(self, nodes: Sequence[Any]) -> None:
            for node in nodes if self.edge_spec is not None else ():
                annotation = node.meta.setdefault(Q_ANNOTATION_KEY, QuantizationAnnotation())
                annotation.output_qspec = annotation.output_qspec or self.edge_spec
                annotation._annotated = True

    return Quantiser


def _open_edges(program: Any) -> dict[str, float | int]:
    """Take the quantise behind the inputs and the dequantise before the outputs away.

    Returns: The constant methods that keep their scales, zero points and layouts.
    """
    from executorch.exir.passes.quantize_io_pass import quantize_input, quantize_output

    constants: dict[str, float | int] = {}
    signature = program.graph_signature
    for index in range(len(signature.user_inputs)):
        scale, zero_point, *_ = quantize_input(program, index)
        constants[f"forward_input{index}_scale"] = float(scale)
        constants[f"forward_input{index}_zp"] = int(zero_point)
    for index in range(len(signature.user_outputs)):
        scale, zero_point, *_ = quantize_output(program, index)
        constants[f"forward_output{index}_scale"] = float(scale)
        constants[f"forward_output{index}_zp"] = int(zero_point)
    nodes = {node.name: node for node in program.graph.nodes}
    edges = {"input": signature.user_inputs, "output": program.graph.output_node().args[0]}
    for edge, found in edges.items():
        for index, node in enumerate(found):
            last = _lies_channels_last(nodes[str(node)].meta["val"])
            constants[f"forward_{edge}{index}_channels_last"] = int(last)
    program.graph_module.recompile()
    return constants


def _delegated_share(graph_module: Any) -> float:
    """Share of the operators that lie in a delegate, of all that the program has."""
    outside = inside = 0
    for node in graph_module.graph.nodes:
        if node.op == "get_attr" and "lowered_module" in str(node.target):
            lowered = getattr(graph_module, node.target)
            inside += sum(
                inner.op == "call_function" for inner in lowered.original_module.graph.nodes
            )
        elif node.op == "call_function" and not str(node.target).startswith(
            ("executorch_call_delegate", "<built-in function getitem>")
        ):
            outside += 1
    return inside / (inside + outside) if inside + outside else 1.0


def _read_back(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What the file at `path` takes and gives; the runtime loads it, so that a file loads."""
    from executorch.extension.pybindings import portable_lib

    module = portable_lib._load_for_executorch(str(path))
    return tuple(_specs(module, "input")), tuple(_specs(module, "output"))


def _specs(module: Any, edge: str) -> Iterator[TensorSpec]:
    methods = set(module.method_names())
    meta = module.method_meta("forward")
    count = meta.num_inputs() if edge == "input" else meta.num_outputs()
    for index in range(count):
        tensor = getattr(meta, f"{edge}_tensor_meta")(index)
        shape = tuple(int(size) for size in tensor.sizes())
        layout = layout_of(len(shape), "NCHW")
        scale = zero_point = None
        if f"forward_{edge}{index}_scale" in methods:
            scale = float(module.run_method(f"forward_{edge}{index}_scale", [])[0])
            zero_point = int(module.run_method(f"forward_{edge}{index}_zp", [])[0])
            if module.run_method(f"forward_{edge}{index}_channels_last", [])[0]:
                batch, channels, height, width = shape
                layout, shape = "NHWC", (batch, height, width, channels)
        dtype = _DTYPES.get(int(tensor.dtype()))
        if dtype is None:
            raise ExportError(
                f"{edge.capitalize()} {index} of the file is neither float32 nor int8 (ExecuTorch "
                f"scalar type {tensor.dtype()}); let the model take and return float32 tensors."
            )
        yield TensorSpec(f"{edge}_{index}", shape, dtype, layout, scale, zero_point)
