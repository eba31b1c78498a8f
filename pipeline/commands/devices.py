"""``nasdeploy devices`` and ``nasdeploy doctor``: what can be measured on, and is it fit for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from nasdeploy.errors import NasdeployError, UsageError
from nasdeploy.pipeline.commands.options import DeviceOption, FormatOption, RunnerOption
from nasdeploy.pipeline.console import Console, Format, rows_table

if TYPE_CHECKING:
    from nasdeploy.device_agent.device import Device

Check = tuple[str, str, str]
"""What was looked at, what was found, and how to mend it, or nothing."""

MISSING, UNKNOWN = "missing", "unknown"
ENOUGH_DISK_BYTES = 2 * 10**9
ENOUGH_MEMORY_BYTES = 3 * 10**9


def register(app: typer.Typer) -> None:
    app.command()(devices)
    app.command()(doctor)


def devices(format: FormatOption = Format.table) -> None:
    """List the devices that can be reached.

    \b
    Example:
        nasdeploy devices --format json
    """
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
    console = Console(format)
    console.result(rows, lambda: rows_table("", columns, [list(row.values()) for row in rows]))
    console.next(f"nasdeploy doctor --device {rows[0]['device']}")


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
    from nasdeploy.device_agent.devices import open_device

    opened = open_device(device or "local")
    console = Console(format)
    checks = [*_runtimes(opened, runner or "native", console), *_condition(opened), *_host()]
    rows = [
        {"check": name, "found": found, "to mend it": mend} for name, found, mend in checks
    ]  # fmt: skip
    console.result(
        rows,
        lambda: rows_table(
            opened.name, ["check", "found", "to mend it"], [list(row.values()) for row in rows]
        ),
    )
    if any(found == MISSING for _, found, _ in checks):
        raise typer.Exit(UsageError.exit_code)
    console.next(f"nasdeploy profile --device {opened.name}")


def _runtimes(device: Device, choice: str, console: Console) -> list[Check]:
    from nasdeploy.device_agent.runners.runner import RUNTIMES, open_runner

    checks = []
    for runtime in RUNTIMES:
        try:
            found, mend = open_runner(runtime, choice, say=console.log).check(device), ""
        except NasdeployError as error:
            found, mend = MISSING, str(error)
        checks.append((f"runtime {runtime}", found, mend))
    return checks


def _condition(device: Device) -> list[Check]:
    """What makes measurements unsteady; nothing of it forbids them."""
    from nasdeploy.device_agent.condition import read_condition

    condition = read_condition(device)
    load = condition.load_average
    busy = load is not None and load > 0.5 * device.info().cores
    governors = sorted(set((condition.governors or {}).values()))
    slow = any(governor != "performance" for governor in governors)
    return [
        (
            "load",
            UNKNOWN if load is None else f"{load:.2f}",
            "Close what else runs here: rounds will be measured again" if busy else "",
        ),
        (
            "governor",
            ", ".join(governors) or UNKNOWN,
            "sudo cpupower frequency-set -g performance" if slow else "",
        ),
    ]


def _host() -> list[Check]:
    """What exporting and training need on this machine; compilers are the runners' concern."""
    import os
    import shutil
    from pathlib import Path

    from nasdeploy.durable import cache_dir
    from nasdeploy.export.workers import available_bytes
    from nasdeploy.units import format_bytes

    checks = []
    for name, folder in (("this folder", Path.cwd()), ("the cache", cache_dir())):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        mend = f"Make room on the disk of {there}" if free < ENOUGH_DISK_BYTES else ""
        if not os.access(there, os.W_OK):
            mend = f"{there} cannot be written to: work in another folder, or set NASDEPLOY_CACHE"
        checks.append((f"disk of {name}", f"{format_bytes(free)} free", mend))
    free = available_bytes()
    mend = "Close other programs, or export and train with one worker"
    checks.append(
        ("memory", f"{format_bytes(free)} free", mend if free < ENOUGH_MEMORY_BYTES else "")
    )
    return checks
