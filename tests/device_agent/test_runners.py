"""Every runner keeps the same promises, on files that the real converters wrote."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.outputs import run_outputs
from nasdeploy.device_agent.runners.events import (
    Bye,
    Event,
    Hello,
    Loaded,
    ModelFailed,
    Sample,
    parse_event,
)
from nasdeploy.device_agent.runners.loop import own_peak_rss_bytes
from nasdeploy.device_agent.runners.python_runner import PythonRunner
from nasdeploy.device_agent.runners.runner import RUNNERS, RUNTIMES, open_runner
from nasdeploy.errors import CommandFailed, UnknownName

if TYPE_CHECKING:
    from torch import nn

SHAPE = (1, 3, 8, 8)


def write_pte(model: nn.Module, x: Any, path: Path) -> None:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(model, (x,))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def write_tflite(model: nn.Module, x: Any, path: Path) -> None:
    import litert_torch

    litert_torch.convert(model, (x,)).export(str(path))


def write_onnx(model: nn.Module, x: Any, path: Path) -> None:
    import torch

    torch.onnx.export(model, (x,), path, dynamo=True, external_data=False, verbose=False)


WRITERS: dict[str, Callable[[nn.Module, Any, Path], None]] = {
    "executorch": write_pte,
    "litert": write_tflite,
    "onnxruntime": write_onnx,
}


@dataclass(frozen=True)
class Case:
    """One runtime with a file of its own, and what torch computes."""

    runner: Any
    path: Path
    images: np.ndarray[Any, Any]
    expected: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Written:
    """A network's files by runtime, and what torch computes."""

    files: dict[str, Path]
    images: np.ndarray[Any, Any]
    expected: np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.Flatten(), nn.Linear(144, 5)).eval()
    images = torch.randn(3, *SHAPE[1:])
    files = {}
    for runtime, write in WRITERS.items():
        files[runtime] = tmp_path_factory.mktemp(runtime) / f"net{open_runner(runtime).suffix}"
        write(model, images[:1], files[runtime])
    with torch.no_grad():
        return Written(files, images.numpy(), model(images).numpy())


# a C library of one's own is the same for every runtime, so one shows it
CASES = [(r, c) for r in sorted(WRITERS) for c in RUNNERS if c != "native+glibc" or r == "litert"]


@pytest.fixture(scope="module", params=CASES, ids=" ".join)
def case(request: pytest.FixtureRequest, written: Written) -> Case:
    runtime, choice = request.param
    return Case(
        open_runner(runtime, choice), written.files[runtime], written.images, written.expected
    )


def carry_out(device: LocalDevice, case: Case, **fields: Any) -> list[Event]:
    """The events of a job on the case's file and on a damaged one."""
    damaged = case.path.with_name(f"damaged{case.path.suffix}")
    damaged.write_bytes(b"not a model, but long enough to be read as one" * 10)
    job = {
        "threads": 1,
        "models": [{"id": "net", "path": str(case.path)}, {"id": "bad", "path": str(damaged)}],
        "warmups": 2,
        "rounds": [["net", "bad", "net"], ["bad", "net"]],
        "repeats": 3,
        "discard": 1,
        "first_round": 5,
        "outputs": [],
        **fields,
    }
    path = Path(device.workdir) / "job.json"
    path.write_text(json.dumps(job))
    case.runner.prepare(device)
    events: list[Event] = []
    done = device.run(
        case.runner.argv(device, str(path)),
        timeout_s=60,
        on_line=lambda line: events.append(parse_event(line)),
    )
    assert done.exit_code == 0, done.stderr
    return events


@pytest.fixture(scope="module")
def events(case: Case, shared_local: LocalDevice) -> list[Event]:
    return carry_out(shared_local, case)


@pytest.mark.slow
def test_a_job_is_carried_out_in_its_order(case: Case, events: list[Event]) -> None:
    hello, *_, bye = events
    assert isinstance(hello, Hello) and isinstance(bye, Bye)
    assert hello.runtime == case.runner.runtime
    assert [e.model for e in events if isinstance(e, Loaded)] == ["net"]
    samples = [e for e in events if isinstance(e, Sample)]
    assert [(s.round, s.model) for s in samples] == [(5, "net"), (5, "net"), (6, "net")]
    for sample in samples:
        assert len(sample.wall_ns) == 3 and min(sample.wall_ns) > 0
        assert sample.thread_ns is not None and min(sample.thread_ns) > 0
    # its own, and not what this process held when it started it
    assert 1_000_000 < bye.peak_rss_bytes < own_peak_rss_bytes() / 2


@pytest.mark.slow
def test_a_file_that_does_not_load_is_named_once(events: list[Event]) -> None:
    failed = [e for e in events if isinstance(e, ModelFailed)]
    assert [e.model for e in failed] == ["bad"]
    assert failed[0].message


@pytest.mark.slow
def test_its_version_is_told_without_a_job(
    case: Case, events: list[Event], local: LocalDevice
) -> None:
    assert isinstance(events[0], Hello)
    assert case.runner.check(local) == events[0].version


@pytest.mark.slow
def test_with_two_threads_no_thread_time_is_told(case: Case, local: LocalDevice) -> None:
    samples = [e for e in carry_out(local, case, threads=2) if isinstance(e, Sample)]
    assert [s.thread_ns for s in samples] == [None, None, None]


@pytest.mark.slow
def test_outputs_are_those_of_the_model(case: Case, local: LocalDevice) -> None:
    # float32 sums of 144 terms in another order: 1e-5 of the largest output
    outputs = run_outputs(local, case.runner, case.path, [case.images])
    assert len(outputs) == 1 and outputs[0].dtype == np.float32
    np.testing.assert_allclose(outputs[0], case.expected, atol=1e-5 * np.abs(case.expected).max())


@pytest.mark.slow
def test_a_hundred_files_are_loaded_at_once(case: Case, local: LocalDevice) -> None:
    models = [{"id": f"op{i}", "path": str(case.path)} for i in range(100)]
    order = [model["id"] for model in models]
    events = carry_out(local, case, models=models, rounds=[order], repeats=1)
    assert [e.model for e in events if isinstance(e, Sample)] == order


def test_every_runtime_has_a_writer_here() -> None:
    assert set(WRITERS) == set(RUNTIMES)


def test_a_misspelt_runtime_is_answered_with_the_likely_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'litert'"):
        open_runner("litrt")


def test_a_runtime_that_is_not_installed_says_how_to_install_it(local: LocalDevice) -> None:
    runner = PythonRunner("other", ".x", "no_such_module", "some-package")
    with pytest.raises(CommandFailed, match=r"no_such_module.*pip install some-package"):
        runner.check(local)


@pytest.mark.parametrize("runtime", ["litert", "onnxruntime"])
def test_a_light_runner_does_not_import_torch(runtime: str, onnx_files: Path) -> None:
    code = (
        f"import sys, nasdeploy.device_agent.runners.python_{runtime} as r\n"
        f"r.{'LiteRT' if runtime == 'litert' else 'OnnxRuntime'}(1)\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "scipy", "pydantic", "executorch"} & set(done.stdout.split())


def test_measuring_imports_no_runtime() -> None:
    code = (
        "import sys, nasdeploy.device_agent.verify, nasdeploy.device_agent.outputs\n"
        "import nasdeploy.device_agent.devices\n"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"torch", "scipy", "onnxruntime", "ai_edge_litert", "executorch", "pydantic"}
    assert not heavy & set(done.stdout.split())
