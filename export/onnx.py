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
from nasdeploy.export.pools import as_convolution, average_pool, rewritten
from nasdeploy.export.quantise import check_request, rows_of

if TYPE_CHECKING:
    from torch import Tensor, nn

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime")
_EDGE = "channels_last_"
_TO_NCHW, _TO_NHWC = (0, 3, 1, 2), (0, 2, 3, 1)


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
        if precision == "int8":
            copied = rewritten(copied, example_input, average_pool, as_convolution)
        proto = _to_proto(copied, example_input, len(ranks))
        if precision == "int8":
            proto = _quantised(proto, rows, target)
            if quantised_io:
                _open_edges(proto, copied, rows, target)
                _record_scales(proto)
                _channels_last_edges(proto)
            _turn_max_pools(proto)
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


def _channels_last_edges(proto: Any) -> None:
    """Let images come and go as NHWC, with a transpose that ONNX Runtime carries on or cancels.

    Inside a network its int8 convolutions find and leave their images so; alone in a file of NCHW
    each operator would bring them there and back.
    """
    from onnx import helper

    graph = proto.graph
    for value in [
        v for v in (*graph.input, *graph.output) if len(v.type.tensor_type.shape.dim) == 4
    ]:
        outer, inner = value.name, f"{value.name}_nchw"
        _rename(graph.node, outer, inner)
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, [dims[i].dim_value for i in _TO_NHWC], strict=True):
            dim.dim_value = size
        name = f"{_EDGE}{outer}"
        if value in graph.input:
            edge = helper.make_node("Transpose", [outer], [inner], name, perm=_TO_NCHW)
            graph.node.insert(0, edge)
        else:
            edge = helper.make_node("Transpose", [inner], [outer], name, perm=_TO_NHWC)
            graph.node.append(edge)


def _turn_max_pools(proto: Any) -> None:
    """Let int8 max pools read and write channels last, as the convolutions beside them do.

    Which layout ONNX Runtime would choose depends on what stands beside a pool, and channels first
    takes far longer. The standard has no pool of that layout, ONNX Runtime's own domain has.
    """
    from onnx import helper

    graph = proto.graph
    for pool in [node for node in graph.node if node.op_type == "MaxPool"]:
        before: Any = next((node for node in graph.node if pool.input[0] in node.output), None)
        behind = [node for node in graph.node if pool.output[0] in node.input]
        quantised = before is not None and before.op_type == "DequantizeLinear" and behind
        # equal scales: the largest of numbers is one of them, and no arithmetic is needed
        if not quantised or any(
            node.op_type != "QuantizeLinear" or list(node.input[1:]) != list(before.input[1:])
            for node in behind
        ):
            continue
        seen, found = f"{pool.name}_seen", f"{pool.name}_found"
        others = [entry for entry in pool.attribute if entry.name != "storage_order"]
        last = helper.make_node("NhwcMaxPool", [seen], [found], pool.name, domain="com.microsoft")
        last.attribute.extend(others)
        first = helper.make_node("Transpose", [before.input[0]], [seen], perm=_TO_NHWC)
        back = [
            helper.make_node("Transpose", [found], [node.output[0]], perm=_TO_NCHW)
            for node in behind
        ]
        at = list(graph.node).index(before)
        read = sum(before.output[0] in node.input for node in graph.node)
        for node in (pool, *behind, *([before] if read == 1 else [])):
            graph.node.remove(node)
        for node in reversed((first, last, *back)):
            graph.node.insert(at, node)
    domains = {entry.domain for entry in proto.opset_import}
    if {node.domain for node in graph.node} - domains - {""}:
        proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))


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
            # an operator alone in a file is quantised as it is behind others
            extra_options={"ForceQuantizeNoInputCheck": True},
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
    from onnx import helper, numpy_helper

    graph = proto.graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    recorded = {}
    for value in (*graph.input, *graph.output):
        edge = next(
            node
            for node in graph.node
            if node.op_type in ("QuantizeLinear", "DequantizeLinear")
            and value.name in (node.input[0], node.output[0])
        )
        scale, zero_point = (numpy_helper.to_array(arrays[name]) for name in edge.input[1:])
        recorded[f"{value.name}_scale"] = repr(float(scale))
        recorded[f"{value.name}_zero_point"] = str(int(zero_point))
    helper.set_model_props(proto, recorded)


def _read_back(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """What the file at `path` takes and gives; ONNX Runtime loads it, so that a file runs."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    proto = onnx.load(path)
    return tuple(_specs(proto, proto.graph.input)), tuple(_specs(proto, proto.graph.output))


def _specs(proto: Any, values: Sequence[Any]) -> Iterator[TensorSpec]:
    from onnx import helper

    recorded = {entry.key: entry.value for entry in proto.metadata_props}
    turned = {
        name
        for node in proto.graph.node
        if node.name.startswith(_EDGE)
        for name in (*node.input, *node.output)
    }
    for value in values:
        tensor = value.type.tensor_type
        dtype = str(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        scale = zero_point = None
        if dtype != "float32":
            scale = float(recorded[f"{value.name}_scale"])
            zero_point = int(recorded[f"{value.name}_zero_point"])
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        layout = layout_of(len(shape), "NHWC" if value.name in turned else "NCHW")
        yield TensorSpec(value.name, shape, dtype, layout, scale, zero_point)
