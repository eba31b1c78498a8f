"""The state that a device is in: recorded before and after measuring, never assumed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nasdeploy.device_agent.device import Device

_TIMEOUT_S = 30.0
_SHELL = """
for file in /proc/loadavg /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor \
/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq \
/sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp \
/sys/class/power_supply/*/capacity /sys/class/power_supply/*/status; do
  if [ -r "$file" ]; then echo "$file $(cat "$file" 2>/dev/null)"; fi
done
"""


@dataclass(frozen=True, slots=True)
class Condition:
    """What a device tells about its state; what it doesn't tell is None, shown as unknown.

    Attributes:
        governors: By processor, such as ``{"cpu0": "schedutil"}``.
        frequencies_mhz: By processor, at the moment of asking.
        temperatures_c: By thermal zone.
        load_average: Over the last minute.
        battery_percent: None for what has no battery too.
        charging: Whether the battery is being charged or is full.
    """

    governors: Mapping[str, str] | None
    frequencies_mhz: Mapping[str, float] | None
    temperatures_c: Mapping[str, float] | None
    load_average: float | None
    battery_percent: int | None
    charging: bool | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def read_condition(device: Device) -> Condition:
    """Ask the device, in one command."""
    done = device.run(["sh", "-c", _SHELL], timeout_s=_TIMEOUT_S)
    files = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    return parse_condition(files)


def parse_condition(files: Mapping[str, str]) -> Condition:
    """A condition from the contents of /proc and /sys files, by their paths."""
    load = _number(files.get("/proc/loadavg", "").split(" ")[0])
    capacity = _number(_battery(files, "capacity"))
    status = _battery(files, "status")
    return Condition(
        governors=_by_part(files, "/cpufreq/scaling_governor") or None,
        frequencies_mhz=_scaled(_by_part(files, "/cpufreq/scaling_cur_freq"), 1e-3),
        temperatures_c=_scaled(_temperatures(files), 1e-3),
        load_average=load,
        battery_percent=None if capacity is None else round(capacity),
        charging=None if status is None else status in ("Charging", "Full"),
    )


def _by_part(files: Mapping[str, str], ending: str) -> dict[str, str]:
    """Contents of the files that end so, by the folder in front of the ending."""
    found = {}
    for path, text in files.items():
        if path.endswith(ending) and text:
            found[path.removesuffix(ending).rsplit("/", 1)[-1]] = text
    return found


def _temperatures(files: Mapping[str, str]) -> dict[str, str]:
    kinds = _by_part(files, "/type")
    found = {}
    for zone, text in _by_part(files, "/temp").items():
        found[f"{zone} {kinds.get(zone, '')}".strip()] = text
    return found


def _scaled(texts: Mapping[str, str], factor: float) -> dict[str, float] | None:
    numbers = {name: _number(text) for name, text in texts.items()}
    return {name: n * factor for name, n in numbers.items() if n is not None} or None


def _battery(files: Mapping[str, str], what: str) -> str | None:
    """Of the first supply that has a charge; a mains adapter has none."""
    supplies = sorted(path for path in files if path.endswith("/capacity"))
    if not supplies:
        return None
    return files.get(supplies[0].removesuffix("capacity") + what)


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
