"""Before a device is measured: cool, awake, at a fixed pace, on the processors that were asked for.

What was changed is put back afterwards. It is written down on this side first, so that what a
killed process left changed is put back by the next one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasdeploy import durable
from nasdeploy.device_agent.condition import Condition, read_condition
from nasdeploy.device_agent.device import Device, Finished
from nasdeploy.device_agent.processors import check_cpus, clusters, mask_of, pin_argv
from nasdeploy.device_agent.runners.runner import Runner
from nasdeploy.device_agent.simulated import SimulatedDevice
from nasdeploy.errors import DeviceError, UsageError

Report = Callable[[str], None]

THROTTLING_STATUS = 2  # Android's "moderate": clocks are held down from here on
BATTERY_MAX_C = 37.0  # phones begin to charge and run slower a little above
_LOOK_AGAIN_S = 5.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Setup:
    """How a device is to be while it is measured.

    Attributes:
        cpus: ``"big"``, ``"little"``, ``"0-3,6"``, ``"0xf0"``; None leaves it to the device.
        max_temp_c: Wait until its processor, and its battery, are no warmer.
        cool_limit_s: How long to wait for that.
        keep_awake: Of Android: the screen stays on, and the clocks at what can be kept up.
    """

    cpus: str | None = None
    max_temp_c: float | None = None
    cool_limit_s: float = 600.0
    keep_awake: bool = True

    def __post_init__(self) -> None:
        if self.cpus is not None:
            check_cpus(self.cpus)
        if self.max_temp_c is not None and not 0 < self.max_temp_c < 150:
            raise UsageError(
                f"A temperature to wait for lies between 0 and 150 °C, got {self.max_temp_c:g}."
            )
        if not self.cool_limit_s >= 0:
            raise UsageError(f"cool_limit_s must be at least 0, got {self.cool_limit_s:g}.")


@dataclass(frozen=True, slots=True)
class Ready:
    """A device that is being measured.

    Attributes:
        prefix: What is put in front of a command so that it runs on the chosen processors.
    """

    device: Device
    setup: Setup
    report: Report
    prefix: Sequence[str] = ()

    def cool(self) -> None:
        """Before each start: wait again if it has warmed up above what was asked for."""
        if self.setup.max_temp_c is not None:
            wait_until_cool(self.device, self.setup, self.report)

    def runner(self, runner: Runner) -> Runner:
        """The runner, started on the chosen processors."""
        return PinnedRunner(runner, tuple(self.prefix)) if self.prefix else runner


@dataclass(frozen=True, slots=True)
class PinnedRunner:
    """A runner behind taskset."""

    inner: Runner
    prefix: tuple[str, ...]
    runtime: str = field(init=False)
    suffix: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runtime", self.inner.runtime)
        object.__setattr__(self, "suffix", self.inner.suffix)

    def kind(self, device: Device) -> str:
        return self.inner.kind(device)

    def prepare(self, device: Device) -> None:
        self.inner.prepare(device)

    def check(self, device: Device) -> str:
        return self.inner.check(device)

    def argv(self, device: Device, job: str) -> Sequence[str]:
        return (*self.prefix, *self.inner.argv(device, job))


@contextlib.contextmanager
def made_ready(device: Device, setup: Setup, report: Report) -> Iterator[Ready]:
    """Make a device ready, and put back afterwards what was changed.

    Args:
        report: Called with what is waited for.
    Raises: `DeviceError` for a device that stays too warm; `UsageError` and `CommandFailed` for
        processors that it does not have or does not keep to.
    """
    if isinstance(device, SimulatedDevice):
        if setup.cpus is not None:
            raise UsageError(f"{device.name} is simulated and has no processors: leave --cpus out.")
        yield Ready(device, setup, report)
        return
    condition = wait_until_cool(device, setup, report)
    prefix: Sequence[str] = ()
    if setup.cpus is not None:
        groups = clusters(condition.processor_mhz or {})
        prefix = pin_argv(device, mask_of(setup.cpus, groups, cores=device.info().cores))
    with _kept_awake(device, condition, setup, report):
        yield Ready(device, setup, report, prefix)


def wait_until_cool(device: Device, setup: Setup, report: Report) -> Condition:
    """The condition in which the device is cool enough.

    Raises: `DeviceError` after `cool_limit_s`; at once for a phone that throttles and for which no
        temperature was given to wait for.
    """
    began = time.monotonic()
    while True:
        condition = read_condition(device)
        warm = too_warm(condition, setup.max_temp_c)
        if warm is None:
            return condition
        waited_s = time.monotonic() - began
        limit_s = 0.0 if setup.max_temp_c is None and _throttles(condition) else setup.cool_limit_s
        if waited_s >= limit_s:
            raise DeviceError(
                f"{device.name} is too warm to be measured: {warm}"
                f"{f', after {waited_s:.0f} s of waiting' if limit_s else ''}. Let it cool, take "
                "it off its charger, or wait for it with --max-temp 40."
            )
        report(f"cooling: {warm}; {limit_s - waited_s:.0f} s at most")
        time.sleep(min(_LOOK_AGAIN_S, limit_s - waited_s))


def too_warm(condition: Condition, max_temp_c: float | None) -> str | None:
    """What is too warm, in words; None if nothing is, as far as the device tells."""
    if _throttles(condition):
        return (
            f"thermal status {condition.thermal_status} (from {THROTTLING_STATUS} on it is slowed)"
        )
    hottest = condition.hottest_c
    if max_temp_c is not None and hottest is not None and hottest > max_temp_c:
        return f"the processor has {hottest:.1f} °C, and {max_temp_c:g} °C is asked for"
    most = max_temp_c or BATTERY_MAX_C
    if condition.battery_c is not None and condition.battery_c > most:
        return f"the battery has {condition.battery_c:.1f} °C, and {most:g} °C is the most"
    return None


def _throttles(condition: Condition) -> bool:
    return condition.thermal_status is not None and condition.thermal_status >= THROTTLING_STATUS


@contextlib.contextmanager
def _kept_awake(
    device: Device, condition: Condition, setup: Setup, report: Report
) -> Iterator[None]:
    """Of Android, which a device is that tells whether it is awake."""
    if condition.awake is None or not setup.keep_awake:
        yield
        return
    left = _left_path(device)
    before = _left_changed(left) or {
        "stay_on": _setting(device),
        "awake": condition.awake,
        "fixed_clocks": False,
    }
    durable.write_json(left, before)
    _run(device, "svc", "power", "stayon", "true")
    if not condition.awake:
        _run(device, "input", "keyevent", "KEYCODE_WAKEUP")
    fixed = _run(device, "cmd", "power", "set-fixed-performance-mode-enabled", "true")
    before["fixed_clocks"] = before["fixed_clocks"] or fixed.exit_code == 0
    durable.write_json(left, before)
    try:
        yield
    finally:
        try:
            put_back(device, before)
        except DeviceError as error:
            report(f"the screen's settings are put back the next time: {error}")
        else:
            left.unlink(missing_ok=True)


def put_back(device: Device, before: dict[str, Any]) -> None:
    """Undo what keeping a phone awake has changed."""
    stay_on = before["stay_on"]
    if stay_on is None:
        _run(device, "svc", "power", "stayon", "false")
    else:
        _run(device, "settings", "put", "global", "stay_on_while_plugged_in", str(stay_on))
    if before["fixed_clocks"]:
        _run(device, "cmd", "power", "set-fixed-performance-mode-enabled", "false")
    if not before["awake"]:
        _run(device, "input", "keyevent", "KEYCODE_SLEEP")


def _setting(device: Device) -> int | None:
    """On which chargers the screen stays on, as a sum of bits; None where that was never set."""
    done = _run(device, "settings", "get", "global", "stay_on_while_plugged_in")
    text = done.stdout.strip()
    return int(text) if text.isdigit() and len(text) < 4 else None


def _run(device: Device, *argv: str) -> Finished:
    return device.run(argv, timeout_s=_TIMEOUT_S)


def _left_path(device: Device) -> Path:
    who = hashlib.sha256(f"{device.name} {device.info().fingerprint}".encode()).hexdigest()[:16]
    return durable.cache_dir() / "changed" / f"{who}.json"


def _left_changed(path: Path) -> dict[str, Any] | None:
    """What an earlier process changed and did not put back; None if nothing, or unreadable."""
    try:
        before = json.loads(path.read_text())
        return before if {"stay_on", "awake", "fixed_clocks"} <= before.keys() else None
    except (OSError, ValueError, AttributeError):
        return None
