"""Energy where a device tells its power, and the reason where it doesn't."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nasdeploy.device_agent.energy import (
    Energy,
    PowerReadings,
    battery_amperes,
    battery_volts,
    measure_energy,
)
from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.runners.runner import Runner

RAILS = """\
  3V3_SYS_A current(1)=0.10000000A
  VDD_CORE_A current(7)=1.50000000A
  EXT5V_V volt(24)=5.10000000V
  3V3_SYS_V volt(9)=3.30000000V
  VDD_CORE_V volt(15)=0.80000000V
@rails"""


def readings(*lines: str) -> PowerReadings:
    power = PowerReadings()
    for line in lines:
        power.take(line)
    return power


@pytest.mark.parametrize(
    ("text", "amperes"),
    [("-312000", -0.312), ("312000", 0.312), ("-312", -0.312), ("7000", None), ("12", None),
     ("0", None), ("99999999999", None), ("n/a", None), ("", None), ("1e5", None)],
)  # fmt: skip
def test_a_current_is_taken_only_where_its_unit_is_clear(text: str, amperes: float | None) -> None:
    assert battery_amperes(text) == amperes


@pytest.mark.parametrize(
    ("text", "volts"),
    [("4213000", 4.213), ("4213", 4.213), ("8400000", 8.4), ("421", None), ("-4213", None),
     ("99999999", None), ("x", None)],
)  # fmt: skip
def test_a_voltage_is_taken_only_where_its_unit_is_clear(text: str, volts: float | None) -> None:
    assert battery_volts(text) == volts


def test_a_batterys_power_is_current_times_voltage_whatever_the_sign() -> None:
    for current in ("-500000", "500000", "-500"):
        line = f"@battery {current} 4000000 Discharging"
        assert readings(line, line, line).mean_mw() == pytest.approx(2000)


def test_the_rails_of_a_pi_are_added_up_where_both_are_told() -> None:
    power = readings(*(3 * RAILS.splitlines()))
    assert power.mean_mw() == pytest.approx(1e3 * (0.1 * 3.3 + 1.5 * 0.8))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["@nothing"], "no current"),
        (["@battery -500000 4000000 Charging"], "being charged"),
        (["@battery -500000 4000000 Full"], "being charged"),
        (["@battery -7000 4000000 Discharging"], "not clear"),
        (["@battery -500000 4 Discharging"], "not clear"),
        (["@battery x"], "being charged"),
        (
            ["@battery -500000 4000000 Discharging", "@battery 500000 4000000 Discharging"],
            "changes its sign",
        ),
    ],
)
def test_what_cannot_be_known_is_unknown_with_its_reason(lines: list[str], reason: str) -> None:
    power = readings(*(["@battery -500000 4000000 Discharging"] * 3), *lines)
    assert power.mean_mw() is None
    assert reason in str(power.unknown_because)


def test_too_few_readings_and_nonsense_give_no_number() -> None:
    assert readings("@battery -500000 4000000 Discharging").mean_mw() is None
    assert (
        readings("\x00", "VDD_A current(7)=1.2.3A", "@rails", "@rails", "@rails").mean_mw() is None
    )


@pytest.fixture
def supplies(tmp_path: Path) -> Path:
    """A battery that gives half an ampere at 4 V, and a charger that tells nothing."""
    battery = tmp_path / "power_supply" / "battery"
    battery.mkdir(parents=True)
    (tmp_path / "power_supply" / "ac").mkdir()
    for name, text in {
        "capacity": "80", "current_now": "-500000", "voltage_now": "4000000",
        "status": "Discharging",
    }.items():  # fmt: skip
        (battery / name).write_text(f"{text}\n")
    return battery.parent


@pytest.mark.slow
def test_energy_is_power_times_time(
    local: LocalDevice,
    supplies: Path,
    graph: Callable[[str], Graph],
    scripted: Callable[[str], Runner],
) -> None:
    # a runner that says 100 ms of each run, and takes long enough for the power to be read
    runner = scripted("(__import__('time').sleep(0.4), 100_000_000)[1]")
    energy = measure_energy(
        local, LocalDevice(Path(local.workdir)), runner, graph("small"),
        threads=1, inference_ms=100, duration_s=2.0, supplies=str(supplies),
    )  # fmt: skip
    assert energy.busy_mw == energy.idle_mw == pytest.approx(2000)
    assert energy.per_inference_mj == pytest.approx(200)
    assert energy.unknown_because is None


def test_a_device_that_tells_no_power_runs_nothing(
    local: LocalDevice,
    tmp_path: Path,
    graph: Callable[[str], Graph],
    scripted: Callable[[str], Runner],
) -> None:
    energy = measure_energy(
        local, local, scripted("crash"), graph("small"),
        threads=1, inference_ms=1, duration_s=0.2, supplies=str(tmp_path / "none"),
    )  # fmt: skip
    assert energy == Energy(unknown_because="the device tells of no current")
