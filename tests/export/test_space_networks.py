"""Networks and operators of every space as files, run by the runtimes themselves."""

from __future__ import annotations

from pathlib import Path
from random import Random

import exportable
import pytest
import torch
from small_spaces import small

from nasdeploy.export.artifact import Artifact, Precision
from nasdeploy.export.exporters import EXPORTERS, SUFFIX
from nasdeploy.export.parity import Parity, compare
from nasdeploy.export.quantise import calibration_for_latency
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.ops import op_module
from nasdeploy.search.supernet import recalibrate_batch_norm
from nasdeploy.search.task import Classification

SLOW = pytest.mark.slow
POOLS = [
    "avg_pool[kernel=3,stride=2](8x12x12)",
    "max_pool[kernel=3,stride=2](8x12x12)",
    "residual_reduce[out=16,stride=2](8x11x12)",
]


def exported(
    model: torch.nn.Module,
    shapes: list[tuple[int, ...]],
    folder: Path,
    runtime: str,
    precision: Precision,
    *,
    quantised_io: bool = False,
) -> Parity:
    """How far a file computes what its model does."""
    artifact, model, batch = written(model, shapes, folder, runtime, precision, quantised_io)
    with torch.no_grad():
        return compare(model(*batch).numpy(), exportable.run_file(artifact, *batch))


def written(
    model: torch.nn.Module,
    shapes: list[tuple[int, ...]],
    folder: Path,
    runtime: str,
    precision: Precision,
    quantised_io: bool,
) -> tuple[Artifact, torch.nn.Module, tuple[torch.Tensor, ...]]:
    """A file, its model with fitted statistics, and a batch of calibration images."""
    calibration = calibration_for_latency(shapes)
    batch = calibration.batches[0]
    if any(isinstance(part, torch.nn.BatchNorm2d) for part in model.modules()):
        recalibrate_batch_norm(model, [(batch[0], None)])
    model.eval()
    artifact = EXPORTERS[runtime](
        model,
        tuple(torch.zeros(1, *shape) for shape in shapes),
        folder / f"file{SUFFIX[runtime]}",
        precision=precision,
        target="x86-64",
        calibration=calibration if precision == "int8" else None,
        quantised_io=quantised_io,
    )
    return artifact, model, batch


def network_parity(name: str, runtime: str, precision: Precision, folder: Path) -> Parity:
    torch.manual_seed(0)
    space = small(name)
    network = space.build(space.sample(Random(1)), task=Classification())
    return exported(network, [space.deployment.input_shape], folder, runtime, precision)


@pytest.mark.parametrize("name", [pytest.param("darts", marks=SLOW), "nasbench201"])
def test_a_network_s_onnx_file_does_what_it_does(name: str, tmp_path: Path) -> None:
    parity = network_parity(name, "onnxruntime", "fp32", tmp_path)
    assert parity.sqnr_db is not None and parity.sqnr_db > 80


# Every kind of operator in every format; all pairs would take five CPU minutes.
@SLOW
@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        ("enas-macro", "litert"),
        ("enas-macro", "onnxruntime"),
        ("enas-micro", "onnxruntime"),
        ("mobile-elastic", "executorch"),
        ("mobile-elastic", "litert"),
        ("mobile-elastic", "onnxruntime"),
        ("pnas", "executorch"),
        ("pnas", "onnxruntime"),
    ],
)
def test_every_space_s_networks_can_be_written(name: str, runtime: str, tmp_path: Path) -> None:
    parity = network_parity(name, runtime, "fp32", tmp_path)
    assert parity.sqnr_db is not None and parity.sqnr_db > 80


@SLOW
@pytest.mark.parametrize(
    ("name", "runtime"),
    [("darts", "litert"), ("darts", "onnxruntime"), ("nasbench201", "executorch")],
)
def test_cells_can_be_int8(name: str, runtime: str, tmp_path: Path) -> None:
    # random weights: int8 keeps the signal, and hardly more (see docs/export.md)
    parity = network_parity(name, runtime, "int8", tmp_path)
    assert parity.sqnr_db is not None and parity.sqnr_db > 3


@pytest.mark.parametrize(
    ("runtime", "key"),
    [
        pytest.param(
            runtime, key, marks=[] if (runtime, key) == ("onnxruntime", POOLS[0]) else [SLOW]
        )
        for runtime in sorted(EXPORTERS)
        for key in POOLS
    ],
)
def test_pools_that_halve_the_size_go_from_int8_to_int8(
    runtime: str, key: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    parsed = OpKey.parse(key)
    parity = exported(
        op_module(parsed), list(parsed.input_shapes), tmp_path, runtime, "int8", quantised_io=True
    )
    assert parity.sqnr_db is not None and parity.sqnr_db > 25


# Operators that one runtime or another left to slow kernels of its own.
@SLOW
@pytest.mark.parametrize("runtime", ["executorch", "litert"])
@pytest.mark.parametrize(
    "key",
    [
        "avg_pool[kernel=3,stride=1](8x12x12)",
        "bn_relu[](8x12x12)",
        "max_pool[kernel=3,stride=2](8x12x12)",
        "relu_conv_bn[kernel=1,out=8,stride=1](8x12x12)",
        "residual_reduce[out=16,stride=2](8x12x12)",
        "zeros[stride=2](8x12x12)",
    ],
)
def test_int8_operators_are_delegated_whole(runtime: str, key: str, tmp_path: Path) -> None:
    parsed = OpKey.parse(key)
    artifact, *_ = written(
        op_module(parsed), list(parsed.input_shapes), tmp_path, runtime, "int8", True
    )
    assert artifact.delegated_share == 1.0


def optimised_operators(path: Path) -> list[str]:
    """What ONNX Runtime makes of a file."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(path.with_suffix(".optimised"))
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


@pytest.mark.parametrize(
    ("key", "operators"),
    [
        ("max_pool[kernel=3,stride=1](8x12x12)", ["NhwcMaxPool"]),
        ("avg_pool[kernel=3,stride=1](8x12x12)", ["QLinearConv", "QLinearMul"]),
        ("add[](8x12x12,8x12x12)", ["QLinearAdd"]),
    ],
)
def test_an_int8_operator_alone_is_computed_channels_last_without_changing_layouts(
    key: str, operators: list[str], tmp_path: Path
) -> None:
    parsed = OpKey.parse(key)
    artifact, *_ = written(
        op_module(parsed), list(parsed.input_shapes), tmp_path, "onnxruntime", "int8", True
    )
    assert {spec.layout for spec in (*artifact.inputs, *artifact.outputs)} == {"NHWC"}
    assert optimised_operators(artifact.path) == operators


def test_max_pools_in_an_int8_network_are_channels_last_whatever_stands_beside_them(
    tmp_path: Path,
) -> None:
    space = small("darts")
    pools = space.decisions[0].choices.index("max_pool_3x3")
    arch = tuple(min(pools, len(decision.choices) - 1) for decision in space.decisions)
    network = space.build(arch, task=Classification())
    artifact, *_ = written(
        network, [space.deployment.input_shape], tmp_path, "onnxruntime", "int8", False
    )
    operators = optimised_operators(artifact.path)
    assert "NhwcMaxPool" in operators and "MaxPool" not in operators


def test_no_converter_takes_out_what_is_computed_of_zeros(tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    zeros = op_module(OpKey.parse("zeros[stride=1](8x12x12)"))
    behind = op_module(OpKey.parse("relu_conv_bn[kernel=3,out=8,stride=1](8x12x12)"))
    model = torch.nn.Sequential(zeros, behind)
    artifact, *_ = written(model, [(8, 12, 12)], tmp_path, "litert", "fp32", False)
    interpreter = Interpreter(
        str(artifact.path),
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    names = {operator["op_name"] for operator in interpreter._get_ops_details()}
    assert {"DEPTHWISE_CONV_2D", "CONV_2D"} <= names
