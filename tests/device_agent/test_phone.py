"""A phone behind a real adbd: its state, its processors, and its screen, as it tells them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nasdeploy.device_agent.condition import read_condition
from nasdeploy.device_agent.emulation import seen_emulator
from nasdeploy.device_agent.processors import pin_argv
from nasdeploy.device_agent.readiness import Setup, made_ready
from nasdeploy.device_agent.remote import RemoteDevice


@pytest.fixture(params=["adb on a phone", "adb+tcp"])
def phone(request: pytest.FixtureRequest, connect: Callable[[str], Any]) -> RemoteDevice:
    device: RemoteDevice = connect(request.param).device
    return device


def test_a_phone_tells_its_state_in_one_command(phone: RemoteDevice) -> None:
    """Its shell is mksh and its tools are toybox's; of /proc/loadavg every Linux tells."""
    load = read_condition(phone).load_average
    assert load is not None
    assert load >= 0


def test_a_phone_is_pinned_where_it_is_told(phone: RemoteDevice) -> None:
    argv = pin_argv(phone, 1)
    done = phone.run([*argv, "cat", "/proc/self/status"], timeout_s=30)
    assert "Cpus_allowed_list:\t0\n" in done.stdout


def test_a_phone_is_made_ready_and_can_be_used_on(phone: RemoteDevice) -> None:
    with made_ready(phone, Setup(cpus="0"), print) as ready:
        done = phone.run([*ready.prefix, "echo", "measured"], timeout_s=30)
    assert done.stdout == "measured\n"


def test_a_phone_of_its_own_is_no_emulator(phone: RemoteDevice) -> None:
    told = seen_emulator(phone)
    assert told is None or "QEMU" in told, "this machine's own /proc/cpuinfo is what it shows"
