"""The state of a device, as it tells it."""

from __future__ import annotations

from nasdeploy.device_agent.condition import Condition, parse_condition, read_condition
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
    assert parse_condition({}) == Condition(None, None, None, None, None, None)


def test_what_is_no_number_is_unknown() -> None:
    files = {"/sys/class/thermal/thermal_zone0/temp": "n/a", "/proc/loadavg": "?"}
    assert parse_condition(files) == Condition(None, None, None, None, None, None)


def test_this_machine_tells_its_load(local: LocalDevice) -> None:
    load = read_condition(local).load_average
    assert load is not None and load >= 0
