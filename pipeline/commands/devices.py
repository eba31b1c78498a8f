"""``nasdeploy devices`` and ``nasdeploy doctor``: what can be measured on, and is it fit for it."""

from __future__ import annotations

import typer

from nasdeploy.errors import NasdeployError
from nasdeploy.pipeline.commands.options import DeviceOption, FormatOption
from nasdeploy.pipeline.console import Console, Format, rows_table


def register(app: typer.Typer) -> None:
    app.command()(devices)
    app.command()(doctor)


def devices(format: FormatOption = Format.table) -> None:
    """List the devices that can be reached."""
    from nasdeploy.device_agent.devices import list_devices
    from nasdeploy.units import format_bytes

    rows = []
    for device in list_devices():
        info = device.info()
        rows.append(
            {
                "device": device.name,
                "model": info.model or "unknown",
                "machine": info.machine,
                "cores": info.cores,
                "memory": "unknown" if info.ram_bytes is None else format_bytes(info.ram_bytes),
                "system": info.os_version or "unknown",
                "fingerprint": info.fingerprint,
            }
        )
    columns = list(rows[0])
    Console(format).result(
        rows, lambda: rows_table("", columns, [list(row.values()) for row in rows])
    )


def doctor(device: DeviceOption = "local", format: FormatOption = Format.table) -> None:
    """Check what a profile needs on a device, and say how to mend what is amiss.

    \b
    Example:
        nasdeploy doctor --device local
    """
    from nasdeploy.device_agent.condition import read_condition
    from nasdeploy.device_agent.devices import open_device
    from nasdeploy.device_agent.runners.runner import RUNNERS

    opened = open_device(device or "local")
    rows = []
    for runtime, runner in RUNNERS.items():
        try:
            found, mend = runner.check(opened), ""
        except NasdeployError as error:
            found, mend = "missing", str(error)
        rows.append({"check": f"runtime {runtime}", "found": found, "to mend it": mend})
    condition = read_condition(opened)
    load = condition.load_average
    busy = load is not None and load > 0.5 * opened.info().cores
    rows.append(
        {
            "check": "load",
            "found": "unknown" if load is None else f"{load:.2f}",
            "to mend it": "Close what else runs here: rounds will be rejected." if busy else "",
        }
    )
    governors = condition.governors or {}
    other = sorted({g for g in governors.values() if g != "performance"})
    rows.append(
        {
            "check": "governor",
            "found": ", ".join(sorted(set(governors.values()))) or "unknown",
            "to mend it": "sudo cpupower frequency-set -g performance" if other else "",
        }
    )
    columns = list(rows[0])
    Console(format).result(
        rows, lambda: rows_table(opened.name, columns, [list(row.values()) for row in rows])
    )
    if any(row["found"] == "missing" for row in rows):
        raise typer.Exit(2)
