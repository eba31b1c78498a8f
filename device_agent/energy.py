"""What an inference costs in energy, where the device tells its power; else unknown, and why.

A phone tells current and voltage of its battery, a Raspberry Pi 5 those of the rails behind its
power controller. The network runs without a pause while they are read over another connection, and
before that the device rests for a while. What comes out is the whole device's: the power at rest
stands beside it.
"""

from __future__ import annotations

import contextlib
import math
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.job import Graph, Job, put_graphs, run_job
from nasdeploy.device_agent.lock import device_lock
from nasdeploy.device_agent.runners.events import Event, ModelFailed, Sample
from nasdeploy.device_agent.runners.runner import Runner
from nasdeploy.errors import CommandFailed

SUPPLIES = "/sys/class/power_supply"
_SHELL = """
if command -v vcgencmd >/dev/null 2>&1 && vcgencmd pmic_read_adc >/dev/null 2>&1; then
  while :; do vcgencmd pmic_read_adc; echo "@rails"; sleep 0.2; done
fi
for supply in "$1"/*; do
  if [ -r "$supply/capacity" ] && [ -r "$supply/current_now" ] && [ -r "$supply/voltage_now" ]; then
    while :; do
      read -r current < "$supply/current_now"; read -r voltage < "$supply/voltage_now"
      read -r status < "$supply/status"
      echo "@battery $current $voltage $status"
      sleep 0.2
    done
  fi
done
echo "@nothing"
"""
_LEAST_READINGS = 3
_SLACK_S = 60.0
_RAIL = re.compile(r"^\s*(\w+)_([AV]) (?:current|volt)\(\d+\)=([0-9.]+)[AV]$")


@dataclass(frozen=True, slots=True)
class Energy:
    """What one inference costs; every field is None where it is unknown.

    Attributes:
        per_inference_mj: The whole device's energy, in millijoules.
        busy_mw, idle_mw: Its power while the network runs, and at rest just before.
        unknown_because: Why there are no numbers.
    """

    per_inference_mj: float | None = None
    busy_mw: float | None = None
    idle_mw: float | None = None
    unknown_because: str | None = None


@dataclass
class PowerReadings:
    """What a device prints of its power, line by line; nonsense is left out."""

    milliwatts: list[float] = field(default_factory=list)
    unknown_because: str | None = None
    _amperes: dict[str, float] = field(default_factory=dict)
    _volts: dict[str, float] = field(default_factory=dict)
    _signs: set[bool] = field(default_factory=set)

    def take(self, line: str) -> None:
        if line == "@nothing":
            self.unknown_because = "the device tells of no current"
        elif line == "@rails":
            self._end_of_rails()
        elif line.startswith("@battery "):
            self._battery(line.split(" ", 3)[1:])
        elif match := _RAIL.match(line):
            rails = self._amperes if match[2] == "A" else self._volts
            with contextlib.suppress(ValueError):
                rails[match[1]] = float(match[3])

    def _end_of_rails(self) -> None:
        common = self._amperes.keys() & self._volts.keys()
        watts = sum(self._amperes[rail] * self._volts[rail] for rail in common)
        if 0 < watts < 100:
            self.milliwatts.append(1e3 * watts)
        self._amperes, self._volts = {}, {}

    def _battery(self, texts: list[str]) -> None:
        if len(texts) != 3 or texts[2] != "Discharging":
            self.unknown_because = "it is being charged, so that the battery's current says nothing"
            return
        amperes, volts = battery_amperes(texts[0]), battery_volts(texts[1])
        if amperes is None or volts is None:
            self.unknown_because = "the units of its battery's current or voltage are not clear"
            return
        self._signs.add(amperes < 0)
        if len(self._signs) > 1:
            self.unknown_because = "its battery's current changes its sign while discharging"
            return
        self.milliwatts.append(1e3 * abs(amperes) * volts)

    def mean_mw(self) -> float | None:
        """None as long as there are too few, or they cannot be understood."""
        if self.unknown_because or len(self.milliwatts) < _LEAST_READINGS:
            return None
        return math.fsum(self.milliwatts) / len(self.milliwatts)


def battery_amperes(text: str) -> float | None:
    """From microamperes, as the kernel has it, or milliamperes, as some vendors do.

    A phone that computes draws 50 mA to 5 A. 10,000 and more must be microamperes then, and 50 to
    5,000 milliamperes; what lies between or below could be either.
    """
    value = _whole(text)
    if value is None:
        return None
    if 10_000 <= abs(value) <= 10_000_000:
        return value / 1e6
    return value / 1e3 if 50 <= abs(value) <= 5_000 else None


def battery_volts(text: str) -> float | None:
    """From microvolts or millivolts: a battery of one or two cells has 2.5 to 10 V."""
    value = _whole(text)
    if value is None:
        return None
    for unit in (1e6, 1e3):
        if 2.5 <= value / unit <= 10:
            return value / unit
    return None


def _whole(text: str) -> int | None:
    return int(text) if re.fullmatch(r"-?[0-9]{1,12}", text) else None


def measure_energy(
    device: Device,
    meter: Device,
    runner: Runner,
    graph: Graph,
    *,
    threads: int,
    inference_ms: float,
    duration_s: float = 5.0,
    supplies: str = SUPPLIES,
) -> Energy:
    """The energy of one inference of a network that runs again and again.

    Args:
        meter: The same device over a connection of its own, on which its power is read meanwhile.
        inference_ms: About what an inference takes, to know how many fill `duration_s`.
        supplies: Where the kernel has the batteries.
    Raises: `CommandFailed` when the network does not run.
    """
    walls_ns: list[int] = []

    def on_event(event: Event) -> None:
        if isinstance(event, ModelFailed):
            raise CommandFailed(f"{graph.id} does not run: {event.message}")
        if isinstance(event, Sample):
            walls_ns.extend(event.wall_ns)

    with device_lock(device):
        with _reading(meter, supplies, duration_s) as idle:
            threading.Event().wait(duration_s / 2)
        if idle.mean_mw() is None:
            return Energy(unknown_because=idle.unknown_because or "it tells its power too rarely")
        runner.prepare(device)
        repeats = max(1, round(200 / max(inference_ms, 1e-3)))
        rounds = max(1, round(1e3 * duration_s / (repeats * inference_ms)))
        job = Job(threads=threads, rounds=[[graph.id]] * rounds, repeats=repeats)
        models = put_graphs(device, [graph])
        with _reading(meter, supplies, duration_s) as busy:
            run_job(
                device, runner, models, job, timeout_s=10 * duration_s + _SLACK_S, on_event=on_event
            )
    busy_mw = busy.mean_mw()
    if busy_mw is None:
        return Energy(unknown_because=busy.unknown_because or "it tells its power too rarely")
    mean_s = math.fsum(walls_ns) / len(walls_ns) / 1e9
    return Energy(busy_mw * mean_s, busy_mw, idle.mean_mw())


class _Enough(Exception):
    """Ends the command that reads the power."""


@contextlib.contextmanager
def _reading(meter: Device, supplies: str, duration_s: float) -> Iterator[PowerReadings]:
    """Read the power in a thread for as long as the block lasts."""
    readings, enough = PowerReadings(), threading.Event()

    def take(line: str) -> None:
        if enough.is_set():
            raise _Enough
        readings.take(line)

    def read() -> None:
        argv = ["sh", "-c", _SHELL, "sh", supplies]
        try:
            meter.run(argv, timeout_s=20 * duration_s + 2 * _SLACK_S, on_line=take)
        except _Enough:
            pass
        except CommandFailed as error:
            readings.unknown_because = str(error)

    thread = threading.Thread(target=read, name=f"power of {meter.name}")
    thread.start()
    try:
        yield readings
    finally:
        enough.set()
        thread.join()
