"""Every exporter keeps the same promises; the files are run by the runtimes themselves."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import exportable
import numpy as np
import pytest
import torch
from torch import nn

from nasdeploy.errors import ExportError, UnknownName, UsageError
from nasdeploy.export.artifact import Artifact, Precision
from nasdeploy.export.exporters import EXPORTERS, SUFFIX, exporter
from nasdeploy.export.parity import compare
from nasdeploy.export.quantise import calibration_for_latency, make_calibration

# LiteRT's and ONNX's fp32 are quick enough to run each time; the rest are seconds each.
QUICK = [("onnxruntime", "fp32"), ("onnxruntime", "int8")]
SLOW = [("litert", "fp32"), ("litert", "int8"), ("executorch", "fp32"), ("executorch", "int8")]
CASES = [*QUICK, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
RUNTIMES = [
    "onnxruntime",
    *(pytest.param(r, marks=pytest.mark.slow) for r in ("litert", "executorch")),
]


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return exportable.fitted_net()


def export(
    module: nn.Module,
    shapes: Sequence[Sequence[int]],
    folder: Path,
    runtime: str,
    precision: Precision = "int8",
    *,
    quantised_io: bool = True,
    target: str = "x86-64",
) -> Artifact:
    return EXPORTERS[runtime](
        module.eval(),
        tuple(torch.zeros(1, *shape) for shape in shapes),
        folder / f"file{SUFFIX[runtime]}",
        precision=precision,
        target="arm64" if target == "arm64" else "x86-64",
        calibration=calibration_for_latency(shapes),
        quantised_io=quantised_io,
    )


@pytest.mark.parametrize(("runtime", "precision"), CASES)
def test_a_file_does_what_the_model_does(
    runtime: str,
    precision: Precision,
    net: nn.Module,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    before = copy.deepcopy(net.state_dict())
    calibration = make_calibration([exportable.images(64, seed=7)[0]])
    path = tmp_path / f"net{SUFFIX[runtime]}"
    artifact = EXPORTERS[runtime](
        net,
        (torch.zeros(1, 3, 32, 32),),
        path,
        precision=precision,
        target="x86-64",
        calibration=calibration,
    )
    assert capfd.readouterr() == ("", "")
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert not net.training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])

    assert artifact.size_bytes == path.stat().st_size
    assert artifact.inputs[0].dtype == artifact.outputs[0].dtype == "float32"
    assert artifact.inputs[0].layout == ("NHWC" if runtime == "litert" else "NCHW")
    assert artifact.outputs[0].layout == "NC"
    assert artifact.delegated_share == (None if runtime == "onnxruntime" else 1.0)

    x, labels = exportable.images(48, seed=3)
    with torch.no_grad():
        expected = net(x).numpy()
    parity = compare(expected, exportable.run_file(artifact, x), labels.numpy())
    assert parity.accuracy_reference is not None and parity.accuracy_reference > 0.95
    if precision == "fp32":
        assert artifact.scheme == "none" and artifact.calibration is None
        assert parity.sqnr_db is not None and parity.sqnr_db > 80
        assert parity.top1_agreement == 1
    else:
        assert artifact.calibration == {"count": 64, "sha256": calibration.sha256}
        assert parity.sqnr_db is not None and parity.sqnr_db > 20
        assert parity.top1_agreement is not None and parity.top1_agreement >= 0.95


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_block_can_be_int8_to_int8(runtime: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    block = exportable.Block(8, 8, 3, 3, 1).eval()
    artifact = export(block, [(8, 10, 10)], tmp_path, runtime)
    edge, out = artifact.inputs[0], artifact.outputs[0]
    assert edge.dtype == out.dtype == ("uint8" if runtime == "onnxruntime" else "int8")
    assert edge.scale and out.scale
    # as images lie between int8 operators, so that what is measured has nothing to turn
    assert edge.layout == out.layout == "NHWC"
    assert edge.shape == out.shape == (1, 10, 10, 8)
    (x,) = calibration_for_latency([(8, 10, 10)]).batches[0]
    with torch.no_grad():
        parity = compare(block(x).numpy(), exportable.run_file(artifact, x))
    assert parity.sqnr_db is not None and parity.sqnr_db > 25


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_operator_may_have_two_inputs(runtime: str, tmp_path: Path) -> None:
    shapes = [(8, 6, 6), (8, 6, 6)]
    pair = calibration_for_latency(shapes).batches[0]
    for module in (exportable.Add(), exportable.Concat()):
        artifact = export(module, shapes, tmp_path, runtime)
        parity = compare(module(*pair).numpy(), exportable.run_file(artifact, *pair))
        assert parity.sqnr_db is not None and parity.sqnr_db > 30


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_head_takes_int8_although_its_mean_may_run_in_float(runtime: str, tmp_path: Path) -> None:
    torch.manual_seed(2)
    head = exportable.Classifier(16, 10).eval()
    artifact = export(head, [(16, 5, 5)], tmp_path, runtime)
    assert artifact.inputs[0].scale and artifact.outputs[0].scale
    (x,) = calibration_for_latency([(16, 5, 5)]).batches[0]
    with torch.no_grad():
        parity = compare(head(x).numpy(), exportable.run_file(artifact, x))
    assert parity.sqnr_db is not None and parity.sqnr_db > 20


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_an_operator_that_a_format_lacks_is_named(
    runtime: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=r"aten\._linalg_svd.*another runtime"):
        export(exportable.SingularValues(), [(3, 8, 8)], tmp_path, runtime)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_onnx_int8_fits_the_target(tmp_path: Path) -> None:
    torch.manual_seed(1)
    block = exportable.Block(8, 8, 3, 3, 1)
    x86 = export(block, [(8, 6, 6)], tmp_path, "onnxruntime", target="x86-64")
    assert x86.inputs[0].dtype == "uint8" and "reduce_range" in x86.scheme
    import onnx
    from onnx import numpy_helper

    def weights(path: Path) -> list[int]:
        tensors = [numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
        return [int(np.abs(t.astype(int)).max()) for t in tensors if t.ndim == 4]

    assert max(weights(x86.path)) <= 64
    arm = export(block, [(8, 6, 6)], tmp_path, "onnxruntime", target="arm64")
    assert arm.inputs[0].dtype == "int8" and "S8S8" in arm.scheme
    assert max(weights(arm.path)) == 127


def test_an_onnx_file_tells_its_scales_to_the_runtime_alone(tmp_path: Path) -> None:
    import onnxruntime

    artifact = export(exportable.Add(), [(8, 6, 6)] * 2, tmp_path, "onnxruntime")
    told = onnxruntime.InferenceSession(str(artifact.path)).get_modelmeta().custom_metadata_map
    for spec in (*artifact.inputs, *artifact.outputs):
        assert float(told[f"{spec.name}_scale"]) == spec.scale
        assert int(told[f"{spec.name}_zero_point"]) == spec.zero_point


@pytest.mark.slow
def test_litert_puts_no_transposes_at_the_edges(tmp_path: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    cases = [
        (exportable.Block(8, 8, 3, 3, 1), [(8, 6, 6)]),
        (exportable.Classifier(8, 10), [(8, 6, 6)]),
        (exportable.Concat(), [(8, 6, 6), (4, 6, 6)]),
    ]
    for module, shapes in cases:
        artifact = export(module, shapes, tmp_path, "litert")
        operators = Interpreter(str(artifact.path))._get_ops_details()
        assert "TRANSPOSE" not in {operator["op_name"] for operator in operators}


@pytest.mark.slow
def test_the_file_depends_on_neither_memory_layout_nor_this_machine(tmp_path: Path) -> None:
    torch.manual_seed(1)
    block = exportable.Block(8, 8, 3, 3, 1)
    plain = export(block, [(8, 6, 6)], tmp_path, "onnxruntime", "fp32", quantised_io=False)
    assert b".py" not in plain.path.read_bytes()  # no stack traces with paths
    block.to(memory_format=torch.channels_last)
    again = export(block, [(8, 6, 6)], tmp_path, "onnxruntime", "fp32", quantised_io=False)
    assert again.sha256 == plain.sha256


def test_a_request_that_makes_no_sense_says_so(tmp_path: Path) -> None:
    module = exportable.Add()
    x = torch.zeros(1, 4, 4, 4)
    path = tmp_path / "a.onnx"
    run = EXPORTERS["onnxruntime"]
    with pytest.raises(UnknownName, match="Did you mean 'litert'"):
        exporter("litertt")
    with pytest.raises(UsageError, match=r"model\.eval"):
        run(module.train(), (x, x), path, precision="fp32", target="arm64")
    module.eval()
    with pytest.raises(UsageError, match="needs calibration images"):
        run(module, (x, x), path, precision="int8", target="arm64")
    with pytest.raises(UsageError, match="batch size 1"):
        run(module, (x.repeat(2, 1, 1, 1), x), path, precision="fp32", target="arm64")
    with pytest.raises(UsageError, match="go with int8"):
        run(module, (x, x), path, precision="fp32", target="arm64", quantised_io=True)
    with pytest.raises(UsageError, match="shapes"):
        run(
            module,
            (x, x),
            path,
            precision="int8",
            target="arm64",
            calibration=calibration_for_latency([(4, 5, 5), (4, 5, 5)]),
        )
    assert not path.exists()
