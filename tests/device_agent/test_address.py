"""How a device is written, and opened by it."""

from __future__ import annotations

import pytest

from nasdeploy.device_agent.adb import AdbDevice
from nasdeploy.device_agent.adb_tcp import AdbTcpDevice
from nasdeploy.device_agent.address import Address, is_address, parse_address
from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.devices import OPENERS, open_device
from nasdeploy.device_agent.ssh import SshDevice
from nasdeploy.errors import UnknownName, UsageError


@pytest.mark.parametrize(
    ("text", "address", "written"),
    [
        ("local", Address("local"), "local"),
        ("adb:8A1X0PZ2", Address("adb", serial="8A1X0PZ2"), "adb:8A1X0PZ2"),
        ("adb:10.0.0.7:5555", Address("adb", serial="10.0.0.7:5555"), "adb:10.0.0.7:5555"),
        ("adb+tcp:lab:5601", Address("adb+tcp", host="lab", port=5601), "adb+tcp:lab:5601"),
        ("adb+tcp:lab", Address("adb+tcp", host="lab", port=5555), "adb+tcp:lab:5555"),
        ("ssh:pi@board.local", Address("ssh", user="pi", host="board.local", port=22),
         "ssh:pi@board.local:22"),
        ("ssh:a.b@[fe80::1]:2222", Address("ssh", user="a.b", host="fe80::1", port=2222),
         "ssh:a.b@[fe80::1]:2222"),
        ("sim:pixel1", Address("sim", serial="pixel1"), "sim:pixel1"),
    ],
)  # fmt: skip
def test_an_address_is_taken_apart_and_written_again(
    text: str, address: Address, written: str
) -> None:
    assert parse_address(text) == address
    assert str(address) == written
    assert parse_address(written) == address
    assert is_address(text) == (text != "local")


@pytest.mark.parametrize(
    "text",
    ["adb:", "local:x", "adb:-s", "adb:a b", "adb+tcp:host:99999", "adb+tcp:host:0", "ssh:board",
     "ssh:pi@", "ssh:-oProxyCommand=x@board", "ssh:pi@-board", "ssh:pi@a b", "sim:", "ssh:a@b:x"],
)  # fmt: skip
def test_what_is_no_address_is_answered_with_how_one_is_written(text: str) -> None:
    with pytest.raises(UsageError, match="is not an address"):
        parse_address(text)


def test_a_misspelt_kind_is_answered_with_the_likely_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'ssh'"):
        parse_address("shh:pi@board")


@pytest.mark.parametrize(
    ("text", "kind"),
    [("adb:X", AdbDevice), ("adb+tcp:h:1", AdbTcpDevice), ("ssh:a@b", SshDevice)],
)
def test_opening_asks_nothing_of_a_device_yet(text: str, kind: type[Device]) -> None:
    device = open_device(text)
    assert isinstance(device, kind)
    assert device.name == text


def test_a_simulated_device_is_more_than_its_address() -> None:
    with pytest.raises(UsageError, match="told what it takes"):
        open_device("sim:pixel1")


def test_every_kind_of_address_can_be_opened() -> None:
    assert set(OPENERS) == {"local", "adb", "adb+tcp", "ssh", "sim"}
