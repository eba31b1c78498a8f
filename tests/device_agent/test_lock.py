"""One process at a time measures on a device."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.lock import device_lock
from nasdeploy.errors import DeviceError

HOLD = """
import sys, time
from pathlib import Path
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.lock import device_lock
with device_lock(LocalDevice(Path(sys.argv[1]))):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(local: LocalDevice) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the device."""
    argv = [sys.executable, "-c", HOLD, local.workdir]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_says_who_holds_it(local: LocalDevice, holder: subprocess.Popen[str]) -> None:
    said: list[str] = []
    with (
        pytest.raises(DeviceError, match=rf"measured by process {holder.pid} .* since"),
        device_lock(local, timeout_s=0.5, on_wait=said.append),
    ):
        pytest.fail("two held it at once")
    assert len(said) == 1 and str(holder.pid) in said[0]


def test_a_holder_that_is_killed_lets_go(local: LocalDevice, holder: subprocess.Popen[str]) -> None:
    with device_lock(local, timeout_s=30, on_wait=lambda text: holder.kill()):
        assert holder.wait() == -9


def test_within_the_one_that_holds_it_asking_again_is_free(local: LocalDevice) -> None:
    with device_lock(local, timeout_s=0), device_lock(local, timeout_s=0):
        pass
    with device_lock(local, timeout_s=0):
        pass


def test_another_device_is_free(
    local: LocalDevice, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    with device_lock(LocalDevice(tmp_path / "other"), timeout_s=0):
        pass
