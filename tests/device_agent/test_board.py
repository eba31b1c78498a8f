"""A model on an arm64 machine: what its runners compute there is what they compute here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from targets.board import VirtualBoard
from targets.daemons import need

from nasdeploy.device_agent.adb import AdbDevice
from nasdeploy.device_agent.adb_tcp import AdbTcpDevice
from nasdeploy.device_agent.emulation import seen_emulator
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.outputs import run_outputs
from nasdeploy.device_agent.remote import RemoteDevice
from nasdeploy.device_agent.runners.native.recipe import RECIPES
from nasdeploy.device_agent.runners.runner import open_runner

pytestmark = pytest.mark.slow

WAYS: dict[str, Callable[[VirtualBoard], RemoteDevice]] = {
    "adb": lambda board: AdbDevice(board.serial),
    "adb to a phone": lambda board: AdbDevice(board.phone_serial),
    "adb+tcp": lambda board: AdbTcpDevice(*_place(board.serial)),
    "ssh": VirtualBoard.device,
}
RELATIVE = 1e-4


def _place(serial: str) -> tuple[str, int]:
    host, _, port = serial.rpartition(":")
    return host, int(port)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], tuple[Path, Any]]:
    """A small network's file for arm64, and images in its layout; exported once."""
    import exportable
    import torch

    from nasdeploy.export.exporters import EXPORTERS
    from nasdeploy.export.parity import to_layout
    from nasdeploy.export.quantise import make_calibration

    folder = tmp_path_factory.mktemp("models")
    made: dict[tuple[str, str], tuple[Path, Any]] = {}

    def get(runtime: str, precision: str) -> tuple[Path, Any]:
        if (runtime, precision) not in made:
            path = folder / f"{precision}{RECIPES[runtime].suffix}"
            artifact = EXPORTERS[runtime](
                exportable.fitted_net(),
                (torch.zeros(1, 3, exportable.PIXELS, exportable.PIXELS),),
                path,
                precision="int8" if precision == "int8" else "fp32",
                target="arm64",
                calibration=make_calibration([exportable.images(16, seed=1)[0]]),
            )
            images = exportable.images(8, seed=2)[0].numpy()
            made[runtime, precision] = path, to_layout(images, artifact.inputs[0])
        return made[runtime, precision]

    return get


def both(board: RemoteDevice, local: LocalDevice, runtime: str, path: Path, x: Any) -> Any:
    """What the file computes on the board, and here."""
    (there,) = run_outputs(board, open_runner(runtime), path, [x])
    (here,) = run_outputs(local, open_runner(runtime), path, [x])
    assert there.shape == here.shape
    return there, here


@pytest.fixture(params=["adb", "ssh"])
def board(
    request: pytest.FixtureRequest, arm_board: VirtualBoard, local: LocalDevice
) -> RemoteDevice:
    need("aarch64-linux-gnu-g++")
    return WAYS[request.param](arm_board)


@pytest.mark.parametrize("runtime", sorted(RECIPES))
def test_an_arm_board_computes_what_this_machine_computes(
    runtime: str, board: RemoteDevice, local: LocalDevice, model: Any
) -> None:
    runner = open_runner(runtime)
    assert runner.check(board) == RECIPES[runtime].version
    assert runner.kind(board) == "native"
    there, here = both(board, local, runtime, *model(runtime, "fp32"))
    np.testing.assert_allclose(there, here, rtol=0, atol=RELATIVE * np.abs(here).max())
    there, here = both(board, local, runtime, *model(runtime, "int8"))
    np.testing.assert_array_equal(there.argmax(1), here.argmax(1))


@pytest.mark.parametrize("runtime", sorted(RECIPES))
def test_an_arm_phone_does_so_with_a_c_library_that_was_pushed(
    runtime: str, arm_board: VirtualBoard, local: LocalDevice, model: Any
) -> None:
    need("aarch64-linux-gnu-g++")
    phone = WAYS["adb to a phone"](arm_board)
    info = phone.info()
    assert (info.model, info.machine) == ("Maker Phone 1", "aarch64")
    runner = open_runner(runtime)
    assert runner.check(phone) == RECIPES[runtime].version
    assert runner.kind(phone) == "native, libc=glibc"
    there, here = both(phone, local, runtime, *model(runtime, "fp32"))
    np.testing.assert_allclose(there, here, rtol=0, atol=RELATIVE * np.abs(here).max())


@pytest.mark.parametrize("way", sorted(WAYS))
def test_an_emulated_board_is_known_as_one(way: str, arm_board: VirtualBoard) -> None:
    device = WAYS[way](arm_board)
    assert device.info().target == "arm64"
    assert seen_emulator(device) == "its board is qemu's virtual one"
