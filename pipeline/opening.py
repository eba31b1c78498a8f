"""The one door through which every command gets at a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.device_agent.address import Address, is_address, parse_address
from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.devices import open_address
from nasdeploy.device_agent.emulation import seen_emulator
from nasdeploy.device_agent.readiness import Setup
from nasdeploy.device_agent.runners.runner import Runner, open_runner
from nasdeploy.device_agent.simulated import Behaviour, Fault, SimulatedDevice, SimulatedRunner
from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.latency_tables.table import LatencyTable, Origin, find_table, read_table
from nasdeploy.pipeline.known_devices import DeviceEntry, SimulationEntry, known_devices
from nasdeploy.pipeline.project import TABLES

LOCAL, ANDROID = "local", "android"


@dataclass(frozen=True)
class OpenedDevice:
    """A device with what is known of it beforehand.

    Attributes:
        setup: How it is to be while it is measured.
        runner_choice: How runtimes are started on it: a name among `RUNNERS`.
        emulated: What the user says of it; None leaves it to be seen.
        simulated_from: The table whose times a ``sim:`` device takes.
    """

    device: Device
    setup: Setup
    runner_choice: str = "native"
    emulated: bool | None = None
    simulated_from: LatencyTable | None = None

    def runner(self, runtime: str, *, say: Callable[[str], None]) -> Runner:
        """What runs a runtime's files on it; a simulated device has its own.

        Args:
            say: Told what takes a while, such as the first build of a native runner.
        """
        if isinstance(self.device, SimulatedDevice):
            return SimulatedRunner(runtime)
        return open_runner(runtime, self.runner_choice, say=say)

    def origin(self) -> Origin:
        """What its times are: ``"measured"``, ``"emulated"`` or ``"simulated"``."""
        if self.simulated_from is not None:
            return "simulated"
        emulated = self.emulated
        if emulated is None:
            emulated = seen_emulator(self.device) is not None
        return "emulated" if emulated else "measured"


def open_named(
    name: str,
    *,
    cpus: str | None = None,
    max_temp_c: float | None = None,
    runner: str | None = None,
) -> OpenedDevice:
    """The device of a name in devices.yaml, ``local``, ``android``, or a direct address.

    Args:
        cpus, max_temp_c, runner: Where they are given they go before the entry's.
    Raises: `UnknownName` with the names that there are; `DeviceUnreachable` and others of the
        device itself.
    """
    entry, address = entry_of(name)
    setup = Setup(
        cpus=cpus if cpus is not None else entry.cpus,
        max_temp_c=max_temp_c if max_temp_c is not None else entry.max_temp_c,
        cool_limit_s=entry.cool_limit_s,
    )
    if address.scheme == "sim":
        device, table = _simulated(name, address, entry.simulation or SimulationEntry())
        return OpenedDevice(device, setup, simulated_from=table)
    if entry.simulation is not None:
        raise UsageError(f"{name} is at {address}, and only sim: devices have a simulation.")
    choice = runner or entry.runner or "native"
    return OpenedDevice(open_address(address, name=name), setup, choice, entry.emulated)


def entry_of(name: str) -> tuple[DeviceEntry, Address]:
    """What devices.yaml says of a device, and where it is."""
    known = known_devices()
    if name in known:
        entry = known[name].entry
        return entry, parse_address(entry.address)
    if is_address(name) or name == LOCAL:
        address = parse_address(name)  # first, for what it says of one that cannot be
        return DeviceEntry(address=name), address
    if name == ANDROID:
        address = the_attached_phone()
        return DeviceEntry(address=str(address)), address
    raise UnknownName("device", name, {LOCAL, ANDROID, *known})


def the_attached_phone() -> Address:
    """Where exactly one phone is attached, and ready, that one."""
    from nasdeploy.device_agent.adb import list_attached

    attached = list_attached()
    ready = [serial for serial, state in attached if state == "device"]
    if len(ready) == 1:
        return Address("adb", serial=ready[0])
    if ready:
        raise UsageError(
            f"{len(ready)} phones are attached: say which, such as --device adb:{min(ready)}; "
            "`nasdeploy devices` lists them."
        )
    states = ", ".join(f"{serial} ({state})" for serial, state in sorted(attached))
    raise UsageError(
        f"No phone is attached and ready{f', only {states}' if states else ''}. "
        "`nasdeploy devices` says what to do about it."
    )


def _simulated(
    name: str, address: Address, entry: SimulationEntry
) -> tuple[SimulatedDevice, LatencyTable]:
    """A device with the times of a table's rows; networks are told to it when they are made."""
    wanted = str(address.serial)
    table = read_table(_table_path(wanted))
    values = entry.model_dump(exclude={"faults"})
    faults = tuple(Fault(**fault.model_dump()) for fault in entry.faults)
    return SimulatedDevice(
        name,
        wanted,
        table.values(table.default_statistic),
        Behaviour(**values, faults=faults),
    ), table


def _table_path(name: str) -> Path:
    """A table's file or shipped name, or the name of one below tables/."""
    ours = TABLES / f"{name}.yaml"
    return ours if ours.is_file() else find_table(name)
