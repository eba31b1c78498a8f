"""Which devices there are, by the name that a user gives."""

from __future__ import annotations

from collections.abc import Callable

from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.errors import UnknownName

DEVICES: dict[str, Callable[[], Device]] = {
    "local": LocalDevice,
}


def open_device(name: str) -> Device:
    """The device of that name; `UnknownName` says which there are."""
    if name not in DEVICES:
        raise UnknownName("device", name, DEVICES)
    return DEVICES[name]()


def list_devices() -> list[Device]:
    """Every device that can be reached from here."""
    return [open_device(name) for name in DEVICES]
