"""Real files for the real runtime that starts quickest, and a runner that says what it is told."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from targets.box import Box
from targets.daemons import Adbd, Sshd

from nasdeploy.device_agent.adb import AdbDevice
from nasdeploy.device_agent.adb_tcp import AdbTcpDevice
from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.measure import MeasureConfig
from nasdeploy.device_agent.remote import RemoteDevice
from nasdeploy.device_agent.ssh import SshDevice

SCRIPTED = Path(__file__).with_name("scripted_runner.py")


def write_onnx(path: Path, nodes: Sequence[onnx.NodeProto], shape: Sequence[int]) -> None:
    """A graph from ``x`` to ``y`` of one shape, with a 3x3 kernel ``w`` to use."""
    kernel = np.random.default_rng(0).normal(size=(shape[1], shape[1], 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(shape))],
        [numpy_helper.from_array(kernel, "w")],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)


def write_convolution(path: Path, channels: int, size: int) -> None:
    node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    write_onnx(path, [node], (1, channels, size, size))


@pytest.fixture(scope="session")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with empty.onnx, sentinel.onnx, small.onnx, large.onnx and damaged.onnx."""
    folder = tmp_path_factory.mktemp("onnx")
    write_onnx(folder / "empty.onnx", [helper.make_node("Add", ["x", "x"], ["y"])], (1, 1, 2, 2))
    write_convolution(folder / "sentinel.onnx", 16, 12)
    write_convolution(folder / "small.onnx", 8, 8)
    write_convolution(folder / "large.onnx", 24, 24)
    (folder / "damaged.onnx").write_bytes(b"not a model")
    return folder


@pytest.fixture(scope="session")
def graph(onnx_files: Path) -> Callable[[str], Graph]:
    """A graph by the name of its .onnx file."""
    return lambda name: Graph(name, onnx_files / f"{name}.onnx")


def _local(folder: Path, builds: Path, patch: pytest.MonkeyPatch) -> LocalDevice:
    cache = folder / "cache"
    cache.mkdir()
    for built in builds.iterdir():
        (cache / built.name).symlink_to(built)
    patch.setenv("NASDEPLOY_CACHE", str(cache))
    return LocalDevice(folder / "device")


@pytest.fixture
def local(tmp_path: Path, builds: Path, monkeypatch: pytest.MonkeyPatch) -> LocalDevice:
    """This machine with folders of its own, so that tests neither wait for nor disturb a user."""
    return _local(tmp_path, builds, monkeypatch)


@pytest.fixture(scope="module")
def shared_local(tmp_path_factory: pytest.TempPathFactory, builds: Path) -> Iterator[LocalDevice]:
    """The same for what is measured once for all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        yield _local(tmp_path_factory.mktemp("local"), builds, patch)


@pytest.fixture(scope="session")
def quick() -> MeasureConfig:
    """So few rounds that a test is over at once, and so tolerant that a busy machine passes."""
    return MeasureConfig(
        warmups=1,
        passes=3,
        chain=2,
        min_samples=12,
        min_duration_s=0.0,
        rounds_per_start=3,
        sentinel_tolerance=50.0,
    )


@dataclass(frozen=True)
class ScriptedRunner:
    """A real process that speaks the protocol and gives the times that its script says.

    Attributes:
        script: What `scripted_runner.py` is told: see there.
    """

    script: str
    runtime: str = "onnxruntime"
    suffix: str = ".onnx"

    def kind(self, device: Device) -> str:
        return "native"

    def prepare(self, device: Device) -> None: ...

    def check(self, device: Device) -> str:
        return "1"

    def argv(self, device: Device, job: str) -> Sequence[str]:
        return (sys.executable, str(SCRIPTED), self.script, job)


@pytest.fixture
def scripted() -> Callable[[str], ScriptedRunner]:
    return ScriptedRunner


_CABLES: dict[str, tuple[str, type[RemoteDevice]]] = {
    "adb": ("board", AdbDevice),
    "adb on a phone": ("phone", AdbDevice),
    "adb+tcp": ("phone", AdbTcpDevice),
    "adb+tcp to a board": ("board", AdbTcpDevice),
    "ssh": ("sshd", SshDevice),
}


@dataclass(frozen=True)
class Cabled:
    """A device behind a cable, and what is at its end."""

    device: RemoteDevice
    box: Box

    def another(self) -> RemoteDevice:
        """The same device, opened once more."""
        return open_cabled(self.box, type(self.device))


def open_cabled(box: Box, kind: type[RemoteDevice]) -> RemoteDevice:
    if isinstance(box, Sshd):
        return box.device()
    assert isinstance(box, Adbd)
    if kind is AdbTcpDevice:
        return AdbTcpDevice("127.0.0.1", box.port)
    return AdbDevice(box.serial)


@pytest.fixture
def connect(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Cabled]]:
    """Opens one of `_CABLES`; what was opened is made whole and cleaned afterwards.

    It asks for `monkeypatch` so that the user is still the one with the key when it cleans.
    """
    opened: list[Cabled] = []

    def open_(cable: str) -> Cabled:
        fixture, kind = _CABLES[cable]
        box: Box = request.getfixturevalue(fixture)
        opened.append(Cabled(open_cabled(box, kind), box))
        return opened[-1]

    yield open_
    for cabled in opened:
        cabled.box.heal()
        cabled.device.clean()
        cabled.device.close()
