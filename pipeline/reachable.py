"""Every device that could be measured on, and what stands in the way of those that can't."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from nasdeploy.device_agent.address import Address, parse_address
from nasdeploy.device_agent.device import DeviceInfo
from nasdeploy.device_agent.devices import open_address
from nasdeploy.errors import DeviceError, NasdeployError, UsageError
from nasdeploy.pipeline.known_devices import known_devices
from nasdeploy.pipeline.opening import LOCAL, open_named

READY = "ready"
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Reachable:
    """A device as it is listed.

    Attributes:
        name: By which ``--device`` finds it.
        state: ``"ready"``, ``"simulated"``, ``"unreachable"``, or the adb server's word.
        advice: What to do about a state that isn't a good one.
    """

    name: str
    address: str
    state: str
    info: DeviceInfo | None = None
    advice: str = ""


def reachable_devices(warn: Callable[[str], None]) -> list[Reachable]:
    """This machine, what has a name in devices.yaml, and what the adb server sees besides."""
    named = {name: parse_address(known.entry.address) for name, known in known_devices().items()}
    named = {LOCAL: Address("local"), **named}
    states = _attached(warn)
    addresses = {str(address) for address in named.values()}
    others = {
        str(address): address
        for address in (Address("adb", serial=serial) for serial in states)
        if str(address) not in addresses
    }
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        found = {**named, **others}
        return list(threads.map(lambda name: _look(name, found[name], states), found))


def _attached(warn: Callable[[str], None]) -> dict[str, str]:
    from nasdeploy.device_agent.adb import list_attached

    try:
        return dict(list_attached())
    except DeviceError as error:
        warn(f"Phones cannot be listed: {error}")
        return {}


def _look(name: str, address: Address, states: dict[str, str]) -> Reachable:
    from nasdeploy.device_agent.adb import ADVICE

    state = states.get(str(address.serial)) if address.scheme == "adb" else None
    if state not in (None, "device"):
        return Reachable(name, str(address), state, advice=ADVICE.get(state, ""))
    try:
        if address.scheme == "sim":
            info = open_named(name).device.info()
            return Reachable(name, str(address), "simulated", info)
        return Reachable(name, str(address), READY, open_address(address, name=name).info())
    except UsageError as error:
        return Reachable(name, str(address), "unusable", advice=str(error))
    except NasdeployError as error:
        return Reachable(name, str(address), "unreachable", advice=str(error))
