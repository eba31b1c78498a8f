"""Which devices there are: this machine by its name, others by their address."""

from __future__ import annotations

import re
from collections.abc import Callable

from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.errors import UnknownName, UsageError

DEVICES: dict[str, Callable[[], Device]] = {
    "local": LocalDevice,
}

_HOST = r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+)"
_PORT = r"(?P<port>\d{1,5})"


def _adb(address: str, name: str) -> Device:
    from nasdeploy.device_agent.adb import AdbDevice

    parts = _parts(r"(?P<serial>[^\s\0]+)", address, name, "adb:SERIAL, as adb devices lists it")
    return AdbDevice(parts["serial"], name=name)


def _adb_tcp(address: str, name: str) -> Device:
    from nasdeploy.device_agent.adb_tcp import AdbTcpDevice

    parts = _parts(f"{_HOST}:{_PORT}", address, name, "adb+tcp:HOST:PORT")
    return AdbTcpDevice(parts["host"].strip("[]"), int(parts["port"]), name=name)


def _ssh(address: str, name: str) -> Device:
    from nasdeploy.device_agent.ssh import SshDevice

    pattern = rf"(?P<user>[\w.-]+)@{_HOST}(:{_PORT})?"
    parts = _parts(pattern, address, name, "ssh:USER@HOST or ssh:USER@HOST:PORT")
    port = int(parts["port"] or 22)
    return SshDevice(parts["user"], parts["host"].strip("[]"), port, name=name)


ADDRESSES: dict[str, Callable[[str, str], Device]] = {
    "adb": _adb,
    "adb+tcp": _adb_tcp,
    "ssh": _ssh,
}
"""What opens an address, by what stands before its first colon; told the rest and the name."""


def open_device(name: str) -> Device:
    """The device of that name or address. Nothing is asked of it yet.

    Raises: `UnknownName` that says which there are, `UsageError` for an address that is none.
    """
    kind, colon, _ = name.partition(":")
    if colon and kind in ADDRESSES:
        return open_address(name, name=name)
    if name not in DEVICES:
        raise UnknownName("device", name, [*DEVICES, *(f"{kind}:..." for kind in ADDRESSES)])
    return DEVICES[name]()


def open_address(address: str, *, name: str) -> Device:
    """The device at an address such as ``ssh:pi@10.0.0.7``, called `name`."""
    kind, _, rest = address.partition(":")
    if kind not in ADDRESSES:
        raise UnknownName("kind of address", kind, ADDRESSES)
    return ADDRESSES[kind](rest, name)


def list_devices() -> list[Device]:
    """Every device that can be reached from here."""
    return [open_device(name) for name in DEVICES]


def _parts(pattern: str, address: str, name: str, shape: str) -> dict[str, str]:
    match = re.fullmatch(pattern, address)
    parts = match.groupdict(default="") if match else {}
    if not match or int(parts.get("port") or 1) not in range(1, 65536):
        raise UsageError(f"{name!r}: {address!r} is not an address of the shape {shape}.")
    return parts
