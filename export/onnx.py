"""ONNX, for ONNX Runtime: the TorchDynamo exporter, then QDQ quantisation by ONNX Runtime.

int8 weights are per channel and symmetric, activations per tensor and asymmetric. On x86-64
activations are uint8 and weights keep 7 of their 8 bits (``reduce_range``): without VNNI, the
instruction adds pairs of products in 16 bits and saturates (mobilenet_v2: 17.6 dB without,
26.9 with). arm64 has no such trap, and takes int8 activations (S8S8).

ONNX Runtime does not tell an input's scale. A file with quantised inputs and outputs carries them
in its metadata: ``input_0_scale``, ``input_0_zero_point``, ``output_0_scale``, and so on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from nasdeploy.export.quantise import check_request, rows_of

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")


def export_onnx(
    model: nn.Module,
    example_input: tuple[Tensor, ...],
    path: Path,
    *,
    precision: Precision,
    target: Target,
    calibration: Calibration | None = None,
    quantised_io: bool = False,
) -> Artifact:
    """Write one .onnx file, NCHW; see `Exporter`."""
    check_request(precision, quantised_io)
    copied = prepared(model, example_input)
    ranks = output_ranks(copied, example_input)
    rows = list(rows_of(calibration, example_input)) if precision == "int8" else []
    with converting("onnxruntime"):
        proto = _to_proto(copied, example_input, len(ranks))
        if precision == "int8":
            proto = _quantised(proto, rows, target)
            if quantised_io:
                _open_edges(proto, copied, rows, target)
                _record_scales(proto)
        with replacing(path) as temporary:
            temporary.write_bytes(proto.SerializeToString())
            inputs, outputs = _read_back(temporary)
            return describe(
                path,
                temporary,
                runtime="onnxruntime",
                precision=precision,
                target=target,
                inputs=inputs,
                outputs=outputs,
                scheme=_scheme(target),
                calibration=calibration,
                delegated_share=None,
                packages=PACKAGES,
            )


def _scheme(target: Target) -> str:
    weights = "weights int8 symmetric per channel"
    if target == "arm64":
        return f"ONNX Runtime QDQ S8S8, min-max: {weights}, activations int8 per tensor"
    return (
        f"ONNX Runtime QDQ U8S8 reduce_range, min-max: {weights} (7 bits), "
        "activations uint8 per tensor"
    )


def _to_proto(model: nn.Module, example_input: tuple[Tensor, ...], outputs: int) -> Any:
    import torch

    program = torch.onnx.export(
        model,
        example_input,
        dynamo=True,
        verbose=False,
        input_names=[f"input_{i}" for i in range(len(example_input))],
        output_names=[f"output_{i}" for i in range(outputs)],
    )
    if program is None:
        raise ExportError("onnxruntime: the converter returned no program.")
    proto = program.model_proto
    # Stack traces of the model's source, with this machine's paths: nobody's business on a device.
    for holder in (proto.graph, *proto.graph.node, *proto.graph.value_info):
        del holder.metadata_props[:]
        holder.doc_string = ""
    del proto.metadata_props[:]
    return proto


def _quantised(proto: Any, rows: Sequence[tuple[Tensor, ...]], target: Target) -> Any:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rows = iter(rows)

        def get_next(self) -> dict[str, Any] | None:
            for row in self.rows:
                return {f"input_{i}": tensor.numpy() for i, tensor in enumerate(row)}
            return None

    arm = target == "arm64"
    with scratch_folder() as folder:
        quantize_static(
            proto,
            folder / "int8.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=not arm,
            activation_type=QuantType.QInt8 if arm else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
        )
        return onnx.load(folder / "int8.onnx")


def _open_edges(
    proto: Any, model: nn.Module, rows: Sequence[tuple[Tensor, ...]], target: Target
) -> None:
    """Let inputs and outputs be what lies behind the first and before the last Q/DQ.

    Where an input meets an operator without an int8 form (a mean), it gets a dequantise of its own:
    inside a network such an operator gets int8 from its neighbour as well. Outputs likewise.
    """
    import torch

    graph = proto.graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    with torch.no_grad():
        results = [model(*row) for row in rows]
    for index, value in enumerate(graph.input):
        consumers = [node for node in graph.node if value.name in node.input]
        if consumers and all(node.op_type == "QuantizeLinear" for node in consumers):
            value.type.tensor_type.elem_type = arrays[consumers[0].input[2]].data_type
            for node in consumers:
                _rename(graph.node, node.output[0], value.name)
                graph.node.remove(node)
        else:
            inner = f"{value.name}_float"
            _rename(graph.node, value.name, inner)
            seen = torch.cat([row[index].flatten() for row in rows])
            _add_edge(graph, "DequantizeLinear", value, inner, seen, target)
    for index, value in enumerate(graph.output):
        producer = next(node for node in graph.node if value.name in node.output)
        if producer.op_type == "DequantizeLinear":
            value.type.tensor_type.elem_type = arrays[producer.input[2]].data_type
            graph.node.remove(producer)
            _rename(graph.node, producer.input[0], value.name)
        else:
            inner = f"{value.name}_float"
            _rename(graph.node, value.name, inner)
            seen = torch.cat(
                [(r[index] if isinstance(r, (tuple, list)) else r).flatten() for r in results]
            )
            _add_edge(graph, "QuantizeLinear", value, inner, seen, target)


def _rename(nodes: Sequence[Any], old: str, new: str) -> None:
    for node in nodes:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                if name == old:
                    names[index] = new


def _add_edge(
    graph: Any, op_type: str, value: Any, inner: str, seen: Tensor, target: Target
) -> None:
    """Put a quantise or dequantise between a graph's `value` and its `inner` float tensor."""
    import numpy as np
    from onnx import helper, numpy_helper

    dtype = np.int8 if target == "arm64" else np.uint8
    low, high = min(0.0, float(seen.min())), max(0.0, float(seen.max()))
    scale = max((high - low) / 255, 1e-8)
    zero_point = np.iinfo(dtype).min + round(-low / scale)
    names = [f"{value.name}_scale", f"{value.name}_zero_point"]
    graph.initializer.append(numpy_helper.from_array(np.array(scale, np.float32), names[0]))
    graph.initializer.append(numpy_helper.from_array(np.array(zero_point, dtype), names[1]))
    value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    if op_type == "DequantizeLinear":
        graph.node.insert(0, helper.make_node(op_type, [value.name, *names], [inner]))
    else:
        graph.node.append(helper.make_node(op_type, [inner, *names], [value.name]))


def _record_scales(proto: Any) -> None:
    """Let the file say its scales to whoever has ONNX Runtime only: ``input_0_scale`` and so on."""
    from onnx import helper

    specs = [*_specs(proto.graph, proto.graph.input), *_specs(proto.graph, proto.graph.output)]
    scales = {f"{spec.name}_scale": repr(spec.scale) for spec in specs}
    zero_points = {f"{spec.name}_zero_point": str(spec.zero_point) for spec in specs}
    helper.set_model_props(proto, scales | zero_points)


def _read_back(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What the file at `path` takes and gives; ONNX Runtime loads it, so that a file runs."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    graph = onnx.load(path).graph
    return tuple(_specs(graph, graph.input)), tuple(_specs(graph, graph.output))


def _specs(graph: Any, values: Sequence[Any]) -> Iterator[TensorSpec]:
    from onnx import helper, numpy_helper

    arrays = {tensor.name: tensor for tensor in graph.initializer}
    for value in values:
        tensor = value.type.tensor_type
        dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        scale = zero_point = None
        if dtype != "float32":
            edge = next(
                node
                for node in graph.node
                if node.op_type in ("QuantizeLinear", "DequantizeLinear")
                and value.name in (node.input[0], node.output[0])
            )
            scale = float(numpy_helper.to_array(arrays[edge.input[1]]))
            zero_point = int(numpy_helper.to_array(arrays[edge.input[2]]))
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        layout = layout_of(len(shape), "NCHW")
        yield TensorSpec(value.name, shape, dtype, layout, scale, zero_point)
