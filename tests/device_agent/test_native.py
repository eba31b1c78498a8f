"""Native runners are built from what a wheel has, by the compiler that there is, or not at all."""

from __future__ import annotations

import platform
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nasdeploy.device_agent.device import DeviceInfo
from nasdeploy.device_agent.job import Graph, Job, run_job
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.memory import peak_rss_bytes
from nasdeploy.device_agent.outputs import run_outputs
from nasdeploy.device_agent.runners.events import Event, Sample
from nasdeploy.device_agent.runners.native.build import build_runner
from nasdeploy.device_agent.runners.native.recipe import RECIPES
from nasdeploy.device_agent.runners.native.runner import NativeRunner
from nasdeploy.device_agent.runners.native.toolchain import find_toolchain
from nasdeploy.device_agent.runners.native.wheels import _unpack
from nasdeploy.device_agent.runners.runner import open_runner
from nasdeploy.errors import CommandFailed, NasdeployError, UnknownName, UsageError

HERE = platform.machine()
ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
needs_cross_compiler = pytest.mark.skipif(
    shutil.which("aarch64-linux-gnu-g++") is None, reason="needs Debian's g++-aarch64-linux-gnu"
)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is all of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("CXX", raising=False)
    return folder


@pytest.mark.skipif(HERE != "x86_64", reason="names the packages of another machine")
def test_without_a_compiler_the_error_says_what_to_install(programs: Path) -> None:
    with pytest.raises(UsageError, match=r"apt install g\+\+\).*--runner python"):
        find_toolchain("x86_64")
    with pytest.raises(UsageError, match=r"apt install g\+\+-aarch64-linux-gnu\)") as error:
        find_toolchain("aarch64")
    assert "python" not in str(error.value)


def test_a_compiler_for_another_processor_is_not_taken(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = programs / "odd-g++"
    compiler.write_text("#!/bin/sh\necho riscv64-linux-gnu\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(UsageError, match="no C\\+\\+ compiler"):
        find_toolchain(HERE)


def test_a_processor_without_wheels_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no native runner for armv7l.*x86_64 and aarch64"):
        find_toolchain("armv7l")


def test_a_runner_that_cannot_be_had_is_never_replaced_by_another(
    local: LocalDevice, programs: Path
) -> None:
    with pytest.raises(UsageError, match="--runner python"):
        open_runner("onnxruntime").check(local)


def test_a_misspelt_runner_is_answered_with_the_likely_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'native'"):
        open_runner("litert", "natve")


def test_a_runner_is_built_once_and_says_so(local: LocalDevice, tmp_path: Path) -> None:
    said: list[str] = []
    recipe = RECIPES["onnxruntime"]
    first = build_runner(recipe, HERE, own_c_library=False, say=said.append)
    again = build_runner(recipe, HERE, own_c_library=False, say=said.append)
    assert first == again
    assert len(said) <= 1  # none where another test has built it
    assert {path.name for path in first.files} == {"runner", "libonnxruntime.so.1"}


def test_a_runner_that_does_not_compile_leaves_nothing_behind(
    builds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runners").mkdir()
    (tmp_path / "wheels").symlink_to(builds / "wheels")
    monkeypatch.setenv("NASDEPLOY_CACHE", str(tmp_path))
    recipe = replace(RECIPES["onnxruntime"], definitions=("run=jump(",))
    with pytest.raises(NasdeployError, match=r"onnxruntime runner does not compile"):
        build_runner(recipe, HERE, own_c_library=False, say=print)
    assert not list((tmp_path / "runners").iterdir())


def test_a_wheel_that_writes_elsewhere_is_refused(tmp_path: Path) -> None:
    wheel = tmp_path / "executorch.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("executorch/include/../../../evil.h", "")
    target = tmp_path / "a" / "b"
    target.mkdir(parents=True)
    with pytest.raises(NasdeployError, match="a wheel that can be trusted"):
        _unpack(wheel, RECIPES["executorch"], target)
    assert not (tmp_path / "evil.h").exists()


def test_of_a_wheel_only_what_is_needed_is_unpacked(tmp_path: Path) -> None:
    wheel = tmp_path / "litert.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("ai_edge_litert/libLiteRt.so", b"library")
        archive.writestr("ai_edge_litert/interpreter.py", b"")
    _unpack(wheel, RECIPES["litert"], tmp_path / "out")
    found = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert found == ["libLiteRt.so"]


def test_a_wheel_without_its_library_is_an_error(tmp_path: Path) -> None:
    wheel = tmp_path / "litert.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("ai_edge_litert/interpreter.py", b"")
    with pytest.raises(UsageError, match=r"does not have ai_edge_litert/libLiteRt\.so"):
        _unpack(wheel, RECIPES["litert"], tmp_path / "out")


class Phone(LocalDevice):
    """This machine, saying that it is a phone."""

    name = "phone"

    def info(self) -> DeviceInfo:
        return replace(super().info(), extra={"platform": "android"})


def test_a_phone_gets_a_c_library_and_starts_by_its_loader(
    local: LocalDevice, tmp_path: Path
) -> None:
    phone = Phone(tmp_path / "phone")
    runner = NativeRunner(RECIPES["onnxruntime"])
    assert runner.kind(phone) == "native, libc=glibc"
    assert runner.kind(local) == "native"
    assert runner.check(phone) == RECIPES["onnxruntime"].version
    loader, option, folder, program, job = runner.argv(phone, "job.json")
    assert Path(loader).name.startswith("ld-linux")
    assert (option, program, job) == ("--library-path", f"{folder}/runner", "job.json")
    assert (Path(folder) / "libc.so.6").is_file()


def test_python_runs_on_this_machine_only(tmp_path: Path) -> None:
    class Board:
        name = "board"

    with pytest.raises(UsageError, match="on this machine only, and not on board"):
        open_runner("litert", "python").prepare(Board())  # type: ignore[arg-type]


@pytest.mark.slow
@needs_cross_compiler
@pytest.mark.parametrize("runtime", sorted(RECIPES))
def test_a_runner_for_arm_is_for_arm(runtime: str, local: LocalDevice) -> None:
    build = build_runner(RECIPES[runtime], "aarch64", own_c_library=True, say=print)
    assert build.loader == "ld-linux-aarch64.so.1"
    for path in build.files:
        header = path.read_bytes()[:20]
        assert header[:4] == b"\x7fELF"
        assert ELF_MACHINES[int.from_bytes(header[18:20], "little")] == "aarch64"


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("runtime", sorted(RECIPES))
def test_it_computes_what_the_runtime_s_own_python_package_computes(
    runtime: str, precision: str, local: LocalDevice, tmp_path: Path
) -> None:
    import exportable
    import torch

    from nasdeploy.export.exporters import EXPORTERS
    from nasdeploy.export.parity import to_layout
    from nasdeploy.export.quantise import make_calibration

    path = tmp_path / f"net{RECIPES[runtime].suffix}"
    artifact = EXPORTERS[runtime](
        exportable.fitted_net(),
        (torch.zeros(1, 3, exportable.PIXELS, exportable.PIXELS),),
        path,
        precision="int8" if precision == "int8" else "fp32",
        target="x86-64" if HERE == "x86_64" else "arm64",
        calibration=make_calibration([exportable.images(16, seed=1)[0]]),
        # an .onnx file does not say how its own int8 inputs are to be read
        quantised_io=precision == "int8" and runtime != "onnxruntime",
    )
    x = to_layout(exportable.images(8, seed=2)[0].numpy(), artifact.inputs[0])
    (native,) = run_outputs(local, open_runner(runtime), path, [x])
    (python,) = run_outputs(local, open_runner(runtime, "python"), path, [x])
    if precision == "int8":
        np.testing.assert_array_equal(native, python)
    else:
        np.testing.assert_allclose(native, python, rtol=0, atol=1e-6 * np.abs(python).max())


BENCHMARK_MODEL = """#!/bin/sh
case "$*" in
  *"--graph="*small*"--num_threads=1"*"--num_runs=2"*) ;;
  *"--num_runs=1"*) echo "INFO: count=1 curr=1500"; exit ;;
  *) echo "ERROR: Failed to read $1"; exit 1 ;;
esac
echo "INFO: Loaded model"
echo "INFO: count=10 first=9000 curr=1300 min=1250 max=9000 avg=2.1e+03 std=10"
echo "INFO: count=2 first=1234 curr=1240 min=1234 max=1240 avg=1237 std=3 p5=1234 median=1240"
echo "INFO: Inference timings in us: Init: 5579, First inference: 9000, Warmup (avg): 2100"
"""
EXECUTOR_RUNNER = """#!/bin/sh
for flag; do case $flag in --num_executions=*) n=${flag#*=} ;; esac; done
for i in $(seq $n); do
  printf 'I executorch:executor_runner.cpp:575] Iteration %d of %d: %d.250000 ms\\n' $i $n $i >&2
done
echo "I executorch:executor_runner.cpp:585] Model executed successfully $n time(s) in 9 ms." >&2
"""
OLD_EXECUTOR_RUNNER = """#!/bin/sh
echo "I executor_runner.cpp:414] Model executed successfully 10 time(s) in 25.5 ms." >&2
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "script", "wall_ns"),
    [
        ("litert", BENCHMARK_MODEL, [(1_234_000, 1_240_000)]),
        ("executorch", EXECUTOR_RUNNER, [(11_250_000, 12_250_000)]),
        ("executorch", OLD_EXECUTOR_RUNNER, [(2_550_000, 2_550_000)]),
    ],
)
def test_times_of_the_user_s_own_program_are_taken_as_it_tells_them(
    runtime: str, script: str, wall_ns: list[tuple[int, int]], local: LocalDevice, tmp_path: Path
) -> None:
    program = tmp_path / "theirs"
    program.write_text(script)
    runner = open_runner(runtime, str(program))
    assert runner.kind(local).removesuffix(", means of many runs") == runner.check(local)
    assert ("means" in runner.kind(local)) == (script == OLD_EXECUTOR_RUNNER)
    model = tmp_path / f"small{runner.suffix}"
    model.write_bytes(b"a model")
    models = [{"id": "small", "path": str(model)}]
    events: list[Event] = []
    job = Job(warmups=3, rounds=[["small"]], repeats=2)
    run_job(local, runner, models, job, timeout_s=60, on_event=events.append)
    samples = [event for event in events if isinstance(event, Sample)]
    assert [sample.wall_ns for sample in samples] == wall_ns
    assert [sample.thread_ns for sample in samples] == [None]


@pytest.mark.slow
def test_a_program_that_fails_names_the_model_and_what_it_said(
    local: LocalDevice, tmp_path: Path
) -> None:
    program = tmp_path / "benchmark_model"
    reasons = "echo 'ERROR: Failed to mmap model' >&2; echo 'ERROR: Benchmarking failed.' >&2"
    program.write_text(f"#!/bin/sh\necho INFO: STARTING!\n{reasons}\nexit 1\n")
    with pytest.raises(CommandFailed, match=r"does not run.*said: ERROR: Failed to mmap model"):
        model = tmp_path / "x.tflite"
        model.write_bytes(b"x")
        peak_rss_bytes(local, open_runner("litert", str(program)), Graph("x", model))


def test_a_program_that_prints_no_times_is_refused_before_it_is_pushed(tmp_path: Path) -> None:
    program = tmp_path / "executor_runner"
    program.write_bytes(b"\x7fELF with OutputX in it")
    with pytest.raises(UsageError, match="EXECUTORCH_ENABLE_LOGGING=ON"):
        open_runner("executorch", str(program))


def test_a_program_that_is_not_there_or_not_understood_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"There is no program .*missing"):
        open_runner("litert", str(tmp_path / "missing"))
    for name in ("benchmark_model", "onnxruntime_perf_test"):
        (tmp_path / name).touch()
    with pytest.raises(UsageError, match="is litert's, and does not run executorch"):
        open_runner("executorch", str(tmp_path / "benchmark_model"))
    program = tmp_path / "onnxruntime_perf_test"
    with pytest.raises(UsageError, match="onnxruntime has no program whose output"):
        open_runner("onnxruntime", str(program))
