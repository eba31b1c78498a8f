"""Networks and operators of every space as files, run by the runtimes themselves."""

from __future__ import annotations

from pathlib import Path
from random import Random

import exportable
import pytest
import torch
from small_spaces import small

from nasdeploy.export.artifact import Precision
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
    with torch.no_grad():
        return compare(model(*batch).numpy(), exportable.run_file(artifact, *batch))


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
