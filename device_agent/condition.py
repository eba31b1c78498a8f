"""The state that a device is in: recorded before and after measuring, never assumed.

What a device prints is data from elsewhere: what is no number, or none that can be, is unknown.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.simulated import SimulatedDevice

_TIMEOUT_S = 30.0
# read is the shell's own: a phone has a hundred of these files, and starting cat for each is slow
_SHELL = """
for file in /proc/loadavg /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor \
/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq \
/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_min_freq \
/sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_max_freq \
/sys/devices/system/cpu/cpu[0-9]*/cpufreq/cpuinfo_max_freq \
/sys/class/thermal/thermal_zone*/type /sys/class/thermal/thermal_zone*/temp \
/sys/class/power_supply/*/capacity /sys/class/power_supply/*/status; do
  if [ -r "$file" ]; then
    { read -r line < "$file" && echo "$file $line"; } 2>/dev/null
  fi
done
if command -v dumpsys >/dev/null 2>&1; then
  for service in battery thermalservice power; do
    dumpsys "$service" 2>/dev/null | while read -r line; do
      case $line in
        level:*|temperature:*|*powered:*|status:*|"Thermal Status:"*|mWakefulness=*)
          echo "dumpsys/$service/$line";;
      esac
    done
  done
fi
exit 0
"""

_COLDEST_C, _HOTTEST_C = -40.0, 200.0
_BATTERY_CHARGING = ("2", "5")  # BatteryManager: BATTERY_STATUS_CHARGING, BATTERY_STATUS_FULL
_PROCESSOR_ZONE = re.compile(r"cpu|soc|big|mid|little|gold|silver|prime|apc|x86_pkg|core", re.I)


@dataclass(frozen=True, slots=True)
class Condition:
    """What a device tells about its state; what it doesn't tell is None, shown as unknown.

    Attributes:
        governors: By processor, such as ``{"cpu0": "schedutil"}``.
        frequencies_mhz: By processor, at the moment of asking.
        temperatures_c: By thermal zone, with its kind: ``"thermal_zone0 cpu-thermal"``.
        load_average: Over the last minute.
        battery_percent: None for what has no battery too.
        charging: Whether the battery is being charged or is full.
        lowest_mhz, highest_mhz: By processor, between which the governor may choose.
        processor_mhz: By processor, the highest that it can do at all.
        thermal_status: Android's, 0 (none) to 6 (shutdown); from 2 on it slows down.
        battery_c: Temperature of the battery.
        awake: Whether the screen is on; a dark one may leave an app one little core.
    """

    governors: Mapping[str, str] | None
    frequencies_mhz: Mapping[str, float] | None
    temperatures_c: Mapping[str, float] | None
    load_average: float | None
    battery_percent: int | None
    charging: bool | None
    lowest_mhz: Mapping[str, float] | None = None
    highest_mhz: Mapping[str, float] | None = None
    processor_mhz: Mapping[str, float] | None = None
    thermal_status: int | None = None
    battery_c: float | None = None
    awake: bool | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def hottest_c(self) -> float | None:
        """Of the processor's zones, or of all where none is called so."""
        zones = self.temperatures_c or {}
        processor = [c for zone, c in zones.items() if _PROCESSOR_ZONE.search(zone)]
        return max(processor or zones.values(), default=None)


UNKNOWN = Condition(None, None, None, None, None, None)


def read_condition(device: Device) -> Condition:
    """Ask the device, in one command. A simulated one has none of its own."""
    if isinstance(device, SimulatedDevice):
        return UNKNOWN
    done = device.run(["sh", "-c", _SHELL], timeout_s=_TIMEOUT_S)
    return parse_condition(parse_files(done.stdout))


def parse_files(printed: str) -> dict[str, str]:
    """What the command prints, by path; Android's services are ``dumpsys/SERVICE/FIELD``."""
    files: dict[str, str] = {}
    for line in printed.splitlines():
        if line.startswith("dumpsys/"):
            name, _, value = line.replace("=", ":", 1).partition(":")
        else:
            name, _, value = line.partition(" ")
        files.setdefault(name.strip(), value.strip())
    return files


def parse_condition(files: Mapping[str, str]) -> Condition:
    """A condition from the contents of /proc and /sys files, by their paths."""
    load = _number(files.get("/proc/loadavg", "").split(" ")[0])
    awake = files.get("dumpsys/power/mWakefulness")
    return Condition(
        governors=_by_part(files, "/cpufreq/scaling_governor") or None,
        frequencies_mhz=_megahertz(files, "scaling_cur_freq"),
        temperatures_c=_temperatures(files) or None,
        load_average=load if load is not None and load >= 0 else None,
        battery_percent=_percent(files),
        charging=_charging(files),
        lowest_mhz=_megahertz(files, "scaling_min_freq"),
        highest_mhz=_megahertz(files, "scaling_max_freq"),
        processor_mhz=_megahertz(files, "cpuinfo_max_freq"),
        thermal_status=_thermal_status(files),
        battery_c=_battery_c(files),
        awake=None if awake is None else awake == "Awake",
    )


def _by_part(files: Mapping[str, str], ending: str) -> dict[str, str]:
    """Contents of the files that end so, by the folder in front of the ending."""
    found = {}
    for path, text in files.items():
        if path.endswith(ending) and text:
            found[path.removesuffix(ending).rsplit("/", 1)[-1]] = text
    return found


def _megahertz(files: Mapping[str, str], name: str) -> dict[str, float] | None:
    texts = _by_part(files, f"/cpufreq/{name}")
    numbers = {cpu: _number(text) for cpu, text in texts.items()}
    return {cpu: khz / 1e3 for cpu, khz in numbers.items() if khz is not None and khz > 0} or None


def _temperatures(files: Mapping[str, str]) -> dict[str, float]:
    kinds = _by_part(files, "/type")
    found = {}
    for zone, text in _by_part(files, "/temp").items():
        celsius = _celsius(_number(text))
        if celsius is not None:
            found[f"{zone} {kinds.get(zone, '')}".strip()] = celsius
    return found


def _celsius(value: float | None) -> float | None:
    """Zones are in thousandths of a degree by the kernel's word; some vendors give degrees.

    Between 10 and 200 they mean degrees, since no chip is a fifth of a degree warm. A zone that is
    switched off gives 0, or what can be no temperature.
    """
    if value is None or value == 0:
        return None
    celsius = value if 10 <= value <= _HOTTEST_C else value / 1e3
    return celsius if _COLDEST_C <= celsius <= _HOTTEST_C else None


def _percent(files: Mapping[str, str]) -> int | None:
    level = _number(files.get("dumpsys/battery/level") or _supply(files, "capacity"))
    return round(level) if level is not None and 0 <= level <= 100 else None


def _charging(files: Mapping[str, str]) -> bool | None:
    """Android's own word before the kernel's: it knows of a battery that only looks discharging."""
    status = files.get("dumpsys/battery/status")
    powered = [v for k, v in files.items() if k.startswith("dumpsys/battery/") and "powered" in k]
    if status is not None or powered:
        return status in _BATTERY_CHARGING or "true" in powered
    status = _supply(files, "status")
    return None if status is None else status in ("Charging", "Full")


def _supply(files: Mapping[str, str], what: str) -> str | None:
    """Of the first supply that has a charge; a mains adapter has none."""
    supplies = sorted(path for path in files if path.endswith("/capacity"))
    if not supplies:
        return None
    return files.get(supplies[0].removesuffix("capacity") + what)


def _thermal_status(files: Mapping[str, str]) -> int | None:
    status = _number(files.get("dumpsys/thermalservice/Thermal Status"))
    return int(status) if status is not None and 0 <= status <= 6 else None


def _battery_c(files: Mapping[str, str]) -> float | None:
    """Android gives tenths of a degree."""
    tenths = _number(files.get("dumpsys/battery/temperature"))
    celsius = None if tenths is None else tenths / 10
    return celsius if celsius is not None and _COLDEST_C <= celsius <= _HOTTEST_C else None


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) else None
