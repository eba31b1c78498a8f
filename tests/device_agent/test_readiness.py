"""A device is cool, awake and pinned while it is measured, and afterwards as it was before."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from phone_commands import PhoneCommands

from nasdeploy.device_agent import readiness
from nasdeploy.device_agent.condition import UNKNOWN, Condition, read_condition
from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.measure import MeasureConfig, measure
from nasdeploy.device_agent.readiness import Setup, made_ready, too_warm, wait_until_cool
from nasdeploy.device_agent.runners.runner import Runner
from nasdeploy.device_agent.simulated import SimulatedDevice
from nasdeploy.durable import Journal, read_jsonl
from nasdeploy.errors import DeviceError, DeviceUnreachable, UsageError

AWAKE = ["svc power stayon true", "cmd power set-fixed-performance-mode-enabled true"]
NOT_FIXED = "cmd power set-fixed-performance-mode-enabled false"


def quiet(text: str) -> None: ...


@pytest.fixture
def phone(tmp_path: Path, local: LocalDevice, monkeypatch: pytest.MonkeyPatch) -> PhoneCommands:
    return PhoneCommands(tmp_path / "phone", monkeypatch)


def test_a_phone_is_kept_awake_and_put_back(local: LocalDevice, phone: PhoneCommands) -> None:
    with made_ready(local, Setup(), quiet):
        assert phone.calls() == AWAKE
    assert phone.calls() == ["svc power stayon false", NOT_FIXED]


def test_a_dark_screen_with_a_setting_of_its_owner_is_put_back_so(
    local: LocalDevice, phone: PhoneCommands
) -> None:
    phone.set(wakefulness="Asleep", stay_on="3")
    with made_ready(local, Setup(), quiet):
        assert "input keyevent KEYCODE_WAKEUP" in phone.calls()
    assert phone.calls() == [
        "settings put global stay_on_while_plugged_in 3",
        NOT_FIXED,
        "input keyevent KEYCODE_SLEEP",
    ]


def test_a_phone_without_fixed_clocks_is_not_told_to_leave_them(
    local: LocalDevice, phone: PhoneCommands
) -> None:
    phone.set(fixed_exit="255")
    with made_ready(local, Setup(), quiet):
        phone.calls()
    assert phone.calls() == ["svc power stayon false"]


def test_it_is_put_back_after_an_error_too(local: LocalDevice, phone: PhoneCommands) -> None:
    with pytest.raises(DeviceUnreachable), made_ready(local, Setup(), quiet):
        raise DeviceUnreachable("gone")
    assert NOT_FIXED in phone.calls()


def test_what_a_killed_process_left_changed_is_put_back_by_the_next(
    local: LocalDevice, phone: PhoneCommands
) -> None:
    phone.set(stay_on="2", wakefulness="Asleep")
    killed = made_ready(local, Setup(), quiet)
    killed.__enter__()
    phone.calls()
    phone.set(stay_on="7", wakefulness="Awake")
    with made_ready(local, Setup(), quiet):
        phone.calls()
    assert "settings put global stay_on_while_plugged_in 2" in phone.calls()
    assert killed is not None


def test_keeping_awake_can_be_left_out(local: LocalDevice, phone: PhoneCommands) -> None:
    with made_ready(local, Setup(keep_awake=False), quiet):
        pass
    assert phone.calls() == []


def test_no_phone_is_not_kept_awake(local: LocalDevice) -> None:
    with made_ready(local, Setup(), quiet) as ready:
        assert ready.prefix == ()


def test_a_throttling_phone_is_refused_at_once(local: LocalDevice, phone: PhoneCommands) -> None:
    phone.set(thermal="2")
    with (
        pytest.raises(DeviceError, match=r"thermal status 2.*--max-temp"),
        made_ready(local, Setup(), quiet),
    ):
        pytest.fail("it was measured")
    assert phone.calls() == []


def test_a_warm_phone_is_waited_for(
    local: LocalDevice, phone: PhoneCommands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "_LOOK_AGAIN_S", 0.01)
    phone.set(tenths="412", thermal="3")
    said: list[str] = []

    def cool_down(text: str) -> None:
        said.append(text)
        phone.set(tenths="412" if len(said) == 1 else "305")

    condition = wait_until_cool(local, Setup(max_temp_c=35), cool_down)
    assert condition.battery_c == 30.5
    assert [text.split(";")[0] for text in said] == [
        "cooling: thermal status 3 (from 2 on it is slowed)",
        "cooling: the battery has 41.2 °C, and 35 °C is the most",
    ]


def test_waiting_to_cool_ends_at_its_limit(local: LocalDevice, phone: PhoneCommands) -> None:
    phone.set(tenths="390")
    with pytest.raises(DeviceError, match=r"the battery has 39.0 °C.*after 0 s of waiting"):
        wait_until_cool(local, Setup(cool_limit_s=0.05), quiet)


@pytest.mark.parametrize(
    ("condition", "max_temp_c", "warm"),
    [
        (UNKNOWN, 40, False),
        (replace(UNKNOWN, temperatures_c={"thermal_zone0 BIG": 41.0}), 40, True),
        (replace(UNKNOWN, temperatures_c={"thermal_zone0 BIG": 41.0}), None, False),
        # a charger's zone says little where the processor has its own
        (replace(UNKNOWN, temperatures_c={"z0 charger": 60.0, "z1 cpu": 39.0}), 40, False),
        (replace(UNKNOWN, temperatures_c={"z0 acpitz": 60.0}), 40, True),
        (replace(UNKNOWN, battery_c=37.5), None, True),
        (replace(UNKNOWN, battery_c=37.5), 40, False),
        (replace(UNKNOWN, thermal_status=1), None, False),
        (replace(UNKNOWN, thermal_status=2), 90, True),
    ],
)
def test_what_is_too_warm(condition: Condition, max_temp_c: float | None, warm: bool) -> None:
    assert (too_warm(condition, max_temp_c) is not None) == warm


@pytest.mark.parametrize(
    "wrong", [{"cpus": "fast"}, {"max_temp_c": 0}, {"cool_limit_s": -1}], ids=str
)
def test_a_setup_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        Setup(**wrong)  # type: ignore[arg-type]


def test_a_simulated_device_has_no_state_and_no_processors(tmp_path: Path) -> None:
    device = SimulatedDevice("sim:x", "x", {}, workdir=tmp_path)
    assert read_condition(device) == UNKNOWN
    with made_ready(device, Setup(max_temp_c=1), quiet) as ready:
        assert ready.prefix == ()
    with (
        pytest.raises(UsageError, match="no processors"),
        made_ready(device, Setup(cpus="0"), quiet),
    ):
        pytest.fail("it was pinned")


def test_a_session_is_measured_on_the_processors_that_were_asked_for(
    local: LocalDevice,
    phone: PhoneCommands,
    graph: Callable[[str], Graph],
    quick: MeasureConfig,
    scripted: Callable[[str], Runner],
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path / "rounds.jsonl")
    cpus = str(max(os.sched_getaffinity(0)))
    # the runner's own clock: how many processors it may run on
    runner = scripted("1000 * len(__import__('os').sched_getaffinity(0))")

    def session(setup: Setup) -> float:
        session = measure(
            local, runner, [graph("small")], sentinel=graph("sentinel"), empty=graph("empty"),
            config=replace(quick, setup=setup), journal=journal, seed=0,
        )  # fmt: skip
        return float(session.samples["small"].wall_ms.max())

    assert session(Setup(cpus=cpus)) == pytest.approx(1e-3)
    begin, *_, end = (e for e in read_jsonl(journal.path) if "condition" in e)
    assert begin["identity"]["cpus"] == cpus
    assert begin["condition"]["battery_c"] == end["condition"]["battery_c"] == 31.2
    assert NOT_FIXED in phone.calls()
    with pytest.raises(UsageError, match=f"cpus was '{cpus}' and is None now"):
        session(Setup())
