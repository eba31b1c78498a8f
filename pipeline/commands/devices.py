"""``nasdeploy devices`` and ``nasdeploy doctor``: what can be measured on, and is it fit for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.errors import UsageError
from nasdeploy.pipeline.commands.grouped import grouped
from nasdeploy.pipeline.commands.options import (
    DeviceOption,
    FormatOption,
    RunnerOption,
    SetupOptions,
)
from nasdeploy.pipeline.console import Console, Format, mapping_table, rows_table

if TYPE_CHECKING:
    from nasdeploy.pipeline.reachable import Reachable

app = typer.Typer(rich_markup_mode=None)

NameArgument = Annotated[str, typer.Argument(help="By which --device finds it.")]


@dataclass(frozen=True, slots=True)
class AddressOptions:
    """Where a device is; one of them."""

    adb: Annotated[
        str | None, typer.Option("--adb", help="A serial, as `adb devices` lists it.")
    ] = None
    adb_tcp: Annotated[
        str | None, typer.Option("--adb-tcp", help="HOST:PORT of its adbd; no adb program needed.")
    ] = None
    ssh: Annotated[str | None, typer.Option("--ssh", help="user@host or user@host:port.")] = None
    sim: Annotated[
        str | None, typer.Option("--sim", help="A table whose times are simulated, as pixel1.")
    ] = None

    def address(self) -> str:
        given = {"adb": self.adb, "adb+tcp": self.adb_tcp, "ssh": self.ssh, "sim": self.sim}
        said = [f"{scheme}:{rest}" for scheme, rest in given.items() if rest is not None]
        if len(said) != 1:
            raise UsageError("Say where it is by one of --adb, --adb-tcp, --ssh and --sim.")
        return said[0]


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="devices")
    app.callback(invoke_without_command=True)(devices)
    app.command()(grouped(add))
    app.command()(remove)
    app.command()(clean)
    root.command()(doctor)


def devices(context: typer.Context, format: FormatOption = Format.table) -> None:
    """List what can be reached: this machine, what adb sees, and what devices.yaml names.

    \b
    Examples:
        nasdeploy devices --format json
        nasdeploy devices add pixel --adb 8A1X0PZ2 --cpus big
        nasdeploy devices clean pixel
    """
    if context.invoked_subcommand is not None:
        return
    from nasdeploy.pipeline.reachable import READY, reachable_devices

    console = Console(format)
    found = reachable_devices(console.warn)
    shown = [
        [d.name, d.address, d.state, _of(d, "model"), _of(d, "machine"), _of(d, "os_version")]
        for d in found
    ]
    columns = ["device", "address", "state", "model", "machine", "system"]
    console.result([_row(d) for d in found], lambda: rows_table("", columns, shown))
    for device in found:
        if device.advice:
            console.warn(f"{device.name}: {device.advice}")
    ready = [device.name for device in found if device.state == READY]
    console.next(f"nasdeploy doctor --device {ready[-1]}")


def _of(device: Reachable, field: str) -> str:
    value = None if device.info is None else getattr(device.info, field)
    return "unknown" if value is None else str(value)


def _row(device: Reachable) -> dict[str, Any]:
    from nasdeploy.units import format_bytes

    info = device.info
    memory = None if info is None else info.ram_bytes
    return {
        "device": device.name,
        "address": device.address,
        "state": device.state,
        "model": _of(device, "model"),
        "machine": _of(device, "machine"),
        "cores": None if info is None else info.cores,
        "memory": "unknown" if memory is None else format_bytes(memory),
        "system": _of(device, "os_version"),
        "fingerprint": _of(device, "fingerprint"),
        "to do": device.advice,
    }


def add(
    name: NameArgument,
    *,
    where: AddressOptions,
    setup: SetupOptions,
    emulated: Annotated[
        bool | None,
        typer.Option("--emulated/--not-emulated", help="Where it cannot be seen; see docs."),
    ] = None,
    project: Annotated[
        bool, typer.Option("--project", help="Into ./devices.yaml instead of the user's own.")
    ] = False,
    replace: Annotated[bool, typer.Option("--replace", help="In place of an entry.")] = False,
    format: FormatOption = Format.table,
) -> None:
    """Give a device a name.

    \b
    Examples:
        nasdeploy devices add pixel --adb 8A1X0PZ2 --cpus big --max-temp 40
        nasdeploy devices add pi --ssh pi@raspberrypi.local
        nasdeploy devices add lab --adb-tcp 10.0.0.7:5555 --project
    """
    from nasdeploy.pipeline.known_devices import (
        PROJECT_DEVICES,
        add_device,
        make_entry,
        user_devices,
    )

    values = {"address": where.address(), **setup.values(), "emulated": emulated}
    entry = make_entry(values, source=f"device {name}")
    path = PROJECT_DEVICES if project else user_devices()
    add_device(name, entry, path=path, replace=replace)
    data = {"device": name, **entry.model_dump(exclude_unset=True, mode="json"), "file": str(path)}
    console = Console(format)
    console.result(data, lambda: mapping_table("Added", data))
    console.next(f"nasdeploy doctor --device {name}", wrote=str(path))


def remove(name: NameArgument, format: FormatOption = Format.table) -> None:
    """Take a device's name out of devices.yaml; nothing is done to the device.

    \b
    Example:
        nasdeploy devices remove pixel
    """
    from nasdeploy.pipeline.known_devices import remove_device

    data = {"device": name, "file": str(remove_device(name))}
    console = Console(format)
    console.result(data, lambda: mapping_table("Removed", data))
    console.next("nasdeploy devices", wrote=data["file"])


def clean(
    name: Annotated[str, typer.Argument(help="A name or an address.")],
    format: FormatOption = Format.table,
) -> None:
    """Remove our own folder on a device: runners, models, what was left of them.

    \b
    Example:
        nasdeploy devices clean pixel
    """
    from nasdeploy.device_agent.lock import device_lock
    from nasdeploy.pipeline.opening import open_named

    console = Console(format)
    device = open_named(name).device
    with device_lock(device, on_wait=console.log):
        folder = device.workdir
        device.clean()
    data = {"device": name, "removed": folder}
    console.result(data, lambda: mapping_table("Cleaned", data))
    console.next(f"nasdeploy doctor --device {name}")


def doctor(
    device: DeviceOption = "local",
    runner: RunnerOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Check what a profile needs on a device, and say how to mend what is amiss.

    \b
    Example:
        nasdeploy doctor --device local
    """
    from nasdeploy.pipeline.doctor import examine

    console = Console(format)
    checks = examine(device or "local", runner=runner, say=console.log)
    rows = [{"check": c.what, "found": c.found, "to mend it": c.mend} for c in checks]
    console.result(
        rows,
        lambda: rows_table(
            str(device), ["check", "found", "to mend it"], [list(row.values()) for row in rows]
        ),
    )
    if any(check.forbids for check in checks):
        raise typer.Exit(UsageError.exit_code)
    console.next(f"nasdeploy profile --device {device}")
