"""What gives an emulator away."""

from __future__ import annotations

import pytest

from nasdeploy.device_agent.emulation import emulator_in, seen_emulator
from nasdeploy.device_agent.local import LocalDevice

CORTEX = "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n"


@pytest.mark.parametrize(
    ("printed", "told_by"),
    [
        ("ro.kernel.qemu : 1\n" + CORTEX, "Android says"),
        ("ro.kernel.qemu : \nro.boot.qemu : 1\n", "Android says"),
        ("ro.hardware : ranchu\n", "ranchu"),
        ("model name\t: QEMU Virtual CPU version 2.5+\n", "QEMU Virtual CPU"),
        ("model name\t: QEMU TCG CPU version 2.5+\n", "QEMU TCG"),
        ("compatible : linux,dummy-virt\n" + CORTEX, "virtual"),
    ],
)
def test_an_emulator_is_seen(printed: str, told_by: str) -> None:
    assert told_by in (emulator_in(printed) or "")


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "model name\t: AMD EPYC\n",
        "compatible : raspberrypi,5-model-b brcm,bcm2712\n" + CORTEX,
        "ro.kernel.qemu : \nro.hardware : shiba\n" + CORTEX,
        # a virtual machine on the host's own cores
        "compatible : linux,dummy-virt\nCPU implementer\t: 0x61\n",
        "garbage \x00\xff::::\n\n",
    ],
)
def test_a_device_of_its_own_is_not_taken_for_one(printed: str) -> None:
    assert emulator_in(printed) is None


def test_a_device_is_asked_in_one_command(local: LocalDevice) -> None:
    answer = seen_emulator(local)
    assert answer is None or "QEMU" in answer or "virtual" in answer
