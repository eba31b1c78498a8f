"""Opening a device by its address. What a library costs to import is paid by who needs it."""

from __future__ import annotations

from collections.abc import Callable

from nasdeploy.device_agent.address import Address, Scheme, parse_address
from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.errors import UsageError


def _local(address: Address, name: str) -> Device:
    return LocalDevice()


def _adb(address: Address, name: str) -> Device:
    from nasdeploy.device_agent.adb import AdbDevice

    return AdbDevice(str(address.serial), name=name)


def _adb_tcp(address: Address, name: str) -> Device:
    from nasdeploy.device_agent.adb_tcp import AdbTcpDevice

    return AdbTcpDevice(str(address.host), int(address.port or 0), name=name)


def _ssh(address: Address, name: str) -> Device:
    from nasdeploy.device_agent.ssh import SshDevice

    return SshDevice(str(address.user), str(address.host), int(address.port or 0), name=name)


def _sim(address: Address, name: str) -> Device:
    raise UsageError(f"{address} is not opened by its address alone: it is told what it takes.")


OPENERS: dict[Scheme, Callable[[Address, str], Device]] = {
    "local": _local,
    "adb": _adb,
    "adb+tcp": _adb_tcp,
    "ssh": _ssh,
    "sim": _sim,
}
"""By the scheme of an address; given the name that the user calls the device by, too."""


def open_address(address: Address, *, name: str) -> Device:
    """The device at an address. Nothing is asked of it yet."""
    return OPENERS[address.scheme](address, name)


def open_device(text: str) -> Device:
    """The device at an address that a user writes; `UsageError` if it is none."""
    return open_address(parse_address(text), name=text)
