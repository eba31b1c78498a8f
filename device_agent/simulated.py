"""A device that isn't there: the latencies it is told, with noise, drift and faults, all seeded.

It is a folder and processes of this machine, through the same seam as any other device; only the
times that its runner prints are made up. So everything around a measurement is tried for real
without a phone: pushing, rounds, journals, a lost connection. What comes out is marked
``simulated`` and never mixed with measurements.
"""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, get_args

from nasdeploy import durable
from nasdeploy.device_agent.device import Device, DeviceInfo, Finished
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.runners.native.recipe import RECIPES
from nasdeploy.device_agent.runners.python_runner import PythonRunner
from nasdeploy.errors import (
    CommandFailed,
    DeviceUnreachable,
    OutOfResources,
    UnknownName,
    UsageError,
)

FaultKind = Literal["unreachable", "cut", "hang", "crash", "full"]
Call = Literal["push", "pull", "run"]

_MODULE = "nasdeploy.device_agent.runners.simulated"
_SPEC = "simulation.json"


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong once, at a chosen call.

    Attributes:
        kind: ``"unreachable"``: the device doesn't answer. ``"full"``: a push finds no room.
            Of runs only, after `after_lines` lines: ``"cut"``: the connection is lost;
            ``"crash"``: the command dies; ``"hang"``: it prints nothing more until its timeout.
        call: Which kind of call it hits.
        number: The how-manieth of them, counted from 1 since the device was opened.
    """

    kind: FaultKind
    call: Call = "run"
    number: int = 1
    after_lines: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(FaultKind) or self.call not in get_args(Call):
            raise UsageError(
                f"A fault {self.kind!r} of {self.call!r} there is not; kinds are "
                f"{', '.join(get_args(FaultKind))}, calls {', '.join(get_args(Call))}."
            )
        only = {"full": "push", "cut": "run", "hang": "run", "crash": "run"}.get(self.kind)
        if only not in (None, self.call):
            raise UsageError(f"A fault {self.kind!r} befalls a {only}, not a {self.call}.")
        if self.number < 1 or self.after_lines < 0:
            raise UsageError("A fault's number is counted from 1, its after_lines from 0.")


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How a simulated device strays from the latencies that it is told.

    Attributes:
        seed: Same seed, same samples: of each round and visit, whatever was run before.
        noise: Standard deviation of a sample, relative.
        drift: How much slower it gets as it warms up, relative: 0.1 is 10 % in the end.
        drift_rounds: After so many rounds 63 % of the drift has come.
        slow_rounds: First and last of a stretch of rounds in which it is throttled, or None.
        slow_factor: How many times longer everything takes then.
        pace: Seconds that pass for a second that it says it took; 0 answers at once.
        faults: In any order; each comes once.
    """

    seed: int = 0
    noise: float = 0.02
    drift: float = 0.0
    drift_rounds: float = 20.0
    slow_rounds: tuple[int, int] | None = None
    slow_factor: float = 1.5
    pace: float = 1.0
    faults: tuple[Fault, ...] = ()

    def __post_init__(self) -> None:
        for name in ("noise", "drift", "pace"):
            if not 0 <= getattr(self, name) <= 100:
                raise UsageError(f"{name} lies between 0 and 100, got {getattr(self, name)}.")
        for name in ("drift_rounds", "slow_factor"):
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be more than 0, got {getattr(self, name)}.")


class SimulatedDevice:
    """A device of made-up times.

    Args:
        source: Where the latencies are from, such as a table's name; stands in the fingerprint.
        latencies_ms: By graph: an operator's key, a network's name.
        workdir: Its folder on this machine; one in the user's cache without.
    """

    def __init__(
        self,
        name: str,
        source: str,
        latencies_ms: Mapping[str, float],
        behaviour: Behaviour | None = None,
        *,
        workdir: Path | None = None,
    ) -> None:
        self.name = name
        self.behaviour = behaviour or Behaviour()
        self._source = source
        self._latencies_ms = dict(latencies_ms)
        told = json.dumps(self._latencies_ms, sort_keys=True).encode()
        self._digest = hashlib.sha256(told).hexdigest()[:8]
        folder = "".join(c if c.isalnum() else "_" for c in name)
        self._local = LocalDevice(workdir or durable.cache_dir() / "simulated" / folder)
        self._calls: dict[Call, int] = dict.fromkeys(get_args(Call), 0)

    @property
    def place(self) -> str:
        return f"sim:{self._local.workdir}"

    @property
    def workdir(self) -> str:
        return self._local.workdir

    @property
    def latencies_ms(self) -> Mapping[str, float]:
        return self._latencies_ms

    def expect(self, latencies_ms: Mapping[str, float]) -> None:
        """Tell it what further graphs take: networks that are only made while it is used."""
        self._latencies_ms.update(latencies_ms)

    def info(self) -> DeviceInfo:
        behaviour = self.behaviour
        return DeviceInfo(
            fingerprint=f"simulated, {self._source} {self._digest}, seed {behaviour.seed}, noise "
            f"{behaviour.noise:g}, drift {behaviour.drift:g}",
            model=f"simulated from {self._source}",
            soc=None,
            os_version=None,
            machine=platform.machine(),  # so that its files can be held against the model here
            cores=1,
            ram_bytes=None,
            extra={"platform": "simulated"},
        )

    def push(self, local: Path, remote: str) -> None:
        fault = self._fault("push")
        if fault is not None:
            raise OutOfResources(
                f"{self.name} has no room for {local.name} (simulated). Remove what it holds of "
                f"earlier work: nasdeploy devices clean {self.name}"
            )
        self._local.push(local, remote)

    def push_all(self, files: Sequence[tuple[Path, str]]) -> None:
        for local, remote in files:
            self.push(local, remote)

    def pull(self, remote: str, local: Path) -> None:
        self._fault("pull")
        self._local.pull(remote, local)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        on_line: Callable[[str], None] | None = None,
    ) -> Finished:
        fault = self._fault("run")
        take = on_line or (lambda line: None)
        if fault is None:
            return self._local.run(argv, timeout_s=timeout_s, on_line=take)
        if fault.kind == "hang":
            # head ends the command by closing its pipe, and what follows prints nothing
            script = 'n=$1; shift; "$@" | head -n "$n"; sleep 100000'
            argv = ["sh", "-c", script, "sh", str(fault.after_lines), *argv]
            return self._local.run(argv, timeout_s=timeout_s, on_line=take)
        return self._local.run(argv, timeout_s=timeout_s, on_line=self._ending(fault, take))

    def clean(self) -> None:
        """Remove its folder's content."""
        self._local.clean()

    def _fault(self, call: Call) -> Fault | None:
        """Count the call; raise what it raises by itself, or return what befalls it later."""
        self._calls[call] += 1
        for fault in self.behaviour.faults:
            if (fault.call, fault.number) == (call, self._calls[call]):
                if fault.kind == "unreachable":
                    raise DeviceUnreachable(f"{self.name} does not answer (simulated).")
                return fault
        return None

    def _ending(self, fault: Fault, take: Callable[[str], None]) -> Callable[[str], None]:
        """Takes as many lines as come through, and ends the command at the next one."""
        left = fault.after_lines

        def take_until(line: str) -> None:
            nonlocal left
            if left == 0:
                if fault.kind == "cut":
                    raise DeviceUnreachable(f"{self.name}: the connection was lost (simulated).")
                raise CommandFailed(f"{self.name}: the command was killed (simulated).")
            left -= 1
            take(line)

        return take_until


@dataclass(frozen=True, slots=True)
class SimulatedRunner:
    """Prints, in place of a runtime, what a `SimulatedDevice` was told that graphs take."""

    runtime: str
    suffix: str = field(init=False)

    def __post_init__(self) -> None:
        if self.runtime not in RECIPES:
            raise UnknownName("runtime", self.runtime, RECIPES)
        object.__setattr__(self, "suffix", RECIPES[self.runtime].suffix)

    def kind(self, device: Device) -> str:
        return "simulated"

    def prepare(self, device: Device) -> None:
        simulated = _simulated(device)
        spec = {
            "runtime": self.runtime,
            "latencies_ms": dict(simulated.latencies_ms),
            "behaviour": {
                name: value
                for name, value in asdict(simulated.behaviour).items()
                if name != "faults"
            },
        }
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder) / _SPEC
            durable.write_json(local, spec)
            device.push(local, f"{device.workdir}/{_SPEC}")

    def check(self, device: Device) -> str:
        _simulated(device)
        return "simulated"

    def argv(self, device: Device, job: str) -> Sequence[str]:
        runner = PythonRunner(self.runtime, self.suffix, _MODULE, "nasdeploy")
        return (*runner.argv(device, f"{device.workdir}/{_SPEC}"), job)


def _simulated(device: Device) -> SimulatedDevice:
    if not isinstance(device, SimulatedDevice):
        raise UsageError(f"{device.name} is a device of its own: only sim: devices are simulated.")
    return device
