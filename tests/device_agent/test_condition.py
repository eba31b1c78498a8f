"""The state of a device, as it tells it."""

from __future__ import annotations

import pytest

from nasdeploy.device_agent.condition import (
    UNKNOWN,
    Condition,
    parse_condition,
    parse_files,
    read_condition,
)
from nasdeploy.device_agent.local import LocalDevice

CPU = "/sys/devices/system/cpu"


def test_a_phone_tells_all_of_it() -> None:
    files = {
        "/proc/loadavg": "0.52 0.58 0.59 1/389 12345",
        f"{CPU}/cpu0/cpufreq/scaling_governor": "schedutil",
        f"{CPU}/cpu7/cpufreq/scaling_governor": "performance",
        f"{CPU}/cpu0/cpufreq/scaling_cur_freq": "1803000",
        "/sys/class/thermal/thermal_zone0/type": "cpu-thermal",
        "/sys/class/thermal/thermal_zone0/temp": "48312",
        "/sys/class/power_supply/battery/capacity": "87",
        "/sys/class/power_supply/battery/status": "Discharging",
        "/sys/class/power_supply/usb/status": "Charging",
    }
    assert parse_condition(files) == Condition(
        governors={"cpu0": "schedutil", "cpu7": "performance"},
        frequencies_mhz={"cpu0": 1803.0},
        temperatures_c={"thermal_zone0 cpu-thermal": 48.312},
        load_average=0.52,
        battery_percent=87,
        charging=False,
    )


def test_what_a_device_does_not_tell_is_unknown() -> None:
    assert parse_condition({}) == UNKNOWN


PRINTED = f"""\
/proc/loadavg 2.84 2.24 1.39 7/137 45
{CPU}/cpu0/cpufreq/scaling_governor sched_pixel
{CPU}/cpu7/cpufreq/scaling_governor sched_pixel
{CPU}/cpu0/cpufreq/scaling_min_freq 574000
{CPU}/cpu0/cpufreq/scaling_max_freq 1803000
{CPU}/cpu7/cpufreq/scaling_max_freq 1500000
{CPU}/cpu7/cpufreq/cpuinfo_max_freq 2850000
/sys/class/thermal/thermal_zone0/type BIG
/sys/class/thermal/thermal_zone3/type battery
/sys/class/thermal/thermal_zone0/temp 41200
/sys/class/thermal/thermal_zone3/temp 31200
/sys/class/power_supply/battery/capacity 86
/sys/class/power_supply/battery/status Discharging
dumpsys/battery/AC powered: false
dumpsys/battery/USB powered: true
dumpsys/battery/status: 3
dumpsys/battery/level: 87
dumpsys/battery/temperature: 312
dumpsys/thermalservice/Thermal Status: 1
dumpsys/power/mWakefulness=Dozing
"""


def test_android_tells_more_than_the_kernel() -> None:
    condition = parse_condition(parse_files(PRINTED))
    assert condition == Condition(
        governors={"cpu0": "sched_pixel", "cpu7": "sched_pixel"},
        frequencies_mhz=None,
        temperatures_c={"thermal_zone0 BIG": 41.2, "thermal_zone3 battery": 31.2},
        load_average=2.84,
        battery_percent=87,
        charging=True,  # on a cable, whatever the kernel says
        lowest_mhz={"cpu0": 574.0},
        highest_mhz={"cpu0": 1803.0, "cpu7": 1500.0},
        processor_mhz={"cpu7": 2850.0},
        thermal_status=1,
        battery_c=31.2,
        awake=False,
    )
    assert condition.hottest_c == 41.2


@pytest.mark.parametrize(
    ("text", "celsius"),
    [("48312", 48.312), ("48", 48.0), ("-5000", -5.0), ("0", None), ("-273000", None),
     ("2147483647", None), ("nan", None), ("1e400", None)],
)  # fmt: skip
def test_a_temperature_that_can_be_none_is_unknown(text: str, celsius: float | None) -> None:
    found = parse_condition({"/sys/class/thermal/thermal_zone0/temp": text}).temperatures_c
    assert found == (None if celsius is None else {"thermal_zone0": celsius})


@pytest.mark.parametrize(
    "line",
    ["dumpsys/battery/level: 900", "dumpsys/battery/temperature: -99999",
     "dumpsys/thermalservice/Thermal Status: 77", "/proc/loadavg -1 0 0",
     "/sys/class/power_supply/battery/capacity inf", "dumpsys/battery/level", "\x00\xff", ""],
)  # fmt: skip
def test_nonsense_is_unknown(line: str) -> None:
    assert parse_condition(parse_files(line)) == UNKNOWN


def test_what_is_no_number_is_unknown() -> None:
    files = {"/sys/class/thermal/thermal_zone0/temp": "n/a", "/proc/loadavg": "?"}
    assert parse_condition(files) == UNKNOWN


def test_this_machine_tells_its_load(local: LocalDevice) -> None:
    load = read_condition(local).load_average
    assert load is not None and load >= 0
