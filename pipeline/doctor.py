"""Whether everything is there that a profile needs, and how to mend what is amiss."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from nasdeploy.device_agent.condition import Condition, read_condition
from nasdeploy.device_agent.device import Device, DeviceInfo
from nasdeploy.device_agent.emulation import seen_emulator
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.processors import clusters, mask_of, pin_argv
from nasdeploy.device_agent.readiness import BATTERY_MAX_C, THROTTLING_STATUS
from nasdeploy.device_agent.runners.native.ndk import HOME as NDK_HOME
from nasdeploy.device_agent.simulated import SimulatedDevice
from nasdeploy.durable import cache_dir
from nasdeploy.errors import DeviceError, NasdeployError, OutOfResources
from nasdeploy.pipeline.opening import OpenedDevice, open_named
from nasdeploy.units import format_bytes

MISSING, UNKNOWN = "missing", "unknown"
ENOUGH_DISK_BYTES = 2 * 10**9
ENOUGH_MEMORY_BYTES = 3 * 10**9
ENOUGH_ON_DEVICE_BYTES = 300 * 10**6
MACHINES = ("x86_64", "aarch64", "arm64")
_TIMEOUT_S = 30.0
_LOW_BATTERY_PERCENT = 20
_CLOCK_OFF_S = 120.0


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at.

    Attributes:
        mend: What to do; empty where all is well.
        forbids: Nothing can be measured as it is.
    """

    what: str
    found: str
    mend: str = ""
    forbids: bool = False


def examine(name: str, *, runner: str | None, say: Callable[[str], None]) -> list[Check]:
    """Every check of a device, and of this machine, which exports for it.

    Args:
        runner: Another than the device's own choice.
        say: Told what takes a while, such as the first build of a runner.
    Raises: `UsageError` for a name that there is not; what is wrong with a device is a check.
    """
    return [*_of_device(open_named(name, runner=runner), say), *_host()]


def _of_device(opened: OpenedDevice, say: Callable[[str], None]) -> Iterator[Check]:
    device = opened.device
    try:
        info = device.info()
        yield Check("reachable", info.fingerprint)
        yield _architecture(info)
        yield from _origin(opened)
        yield from _runtimes(opened, say)
        if isinstance(device, SimulatedDevice):
            return
        yield from _folder(device)
        yield from _tools(device)
        condition = read_condition(device)
        yield from _pinning(opened, condition, info)
        yield from _state(condition, info.cores)
        yield from _clock(device)
    except DeviceError as error:
        yield Check("reachable", "no", str(error), forbids=True)


def _architecture(info: DeviceInfo) -> Check:
    known = info.machine in MACHINES
    mend = "" if known else f"Runners are built for {', '.join(MACHINES)}: use another device"
    return Check("architecture", f"{info.machine}, {info.cores} cores", mend, forbids=not known)


def _origin(opened: OpenedDevice) -> Iterator[Check]:
    if opened.simulated_from is not None:
        yield Check("times", "simulated", "For trying things: search with --allow-simulated")
        return
    reason = seen_emulator(opened.device)
    if opened.emulated or (opened.emulated is None and reason):
        why = reason or "devices.yaml says so"
        mend = "Its times say nothing of speed. If it is none: emulated: false in devices.yaml"
        yield Check("times", f"emulated: {why}", mend)


def _runtimes(opened: OpenedDevice, say: Callable[[str], None]) -> Iterator[Check]:
    """Each of them; only where none can be run is there nothing to measure with."""
    from nasdeploy.pipeline.config import RUNTIMES

    checks, kinds = [], set()
    for runtime in RUNTIMES:
        try:
            runner = opened.runner(runtime, say=say)
            runner.prepare(opened.device)
            checks.append(Check(f"runtime {runtime}", runner.check(opened.device)))
            kinds.add(runner.kind(opened.device))
        except NasdeployError as error:
            checks.append(Check(f"runtime {runtime}", MISSING, str(error)))
    yield from (checks if kinds else [replace(check, forbids=True) for check in checks])
    if kinds:
        yield Check("runner", f"{'; '.join(sorted(kinds))}{_ndk(opened.device, kinds)}")


def _ndk(device: Device, kinds: set[str]) -> str:
    """That there is a choice, where there is one: glibc is what needs nothing more."""
    if "native, libc=glibc" not in kinds or not os.environ.get(NDK_HOME):
        return ""
    if device.info().extra.get("platform") != "android":
        return ""
    return f" ({NDK_HOME} is set: --runner ndk:ARCHIVE.aar takes Android's own C library)"


def _folder(device: Device) -> Iterator[Check]:
    probe = f"{device.workdir}/doctor.txt"
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "doctor.txt"
        local.write_text(f"{time.time_ns()}\n")
        try:
            device.push(local, probe)
            device.run(["rm", "-f", probe], timeout_s=_TIMEOUT_S)
        except (OutOfResources, DeviceError) as error:
            yield Check("folder", f"{device.workdir} cannot be written", str(error), forbids=True)
            return
    yield Check("folder", device.workdir)
    done = device.run(["df", "-k", device.workdir], timeout_s=_TIMEOUT_S)
    free = free_bytes(done.stdout)
    mend = "" if free is None or free >= ENOUGH_ON_DEVICE_BYTES else (
        f"Runners and models need up to {format_bytes(ENOUGH_ON_DEVICE_BYTES)}: make room, or "
        f"nasdeploy devices clean {device.name}"
    )  # fmt: skip
    yield Check("free space", UNKNOWN if free is None else format_bytes(free), mend)


def free_bytes(printed: str) -> int | None:
    """What ``df -k`` says is available; a long device name moves the numbers to another line."""
    _, _, body = printed.partition("\n")
    numbers = re.search(r"\s(\d+)\s+(\d+)\s+(\d+)\s+\d+%\s", body)
    return int(numbers[3]) * 1024 if numbers else None


def _tools(device: Device) -> Iterator[Check]:
    """What our commands on a remote device are made of."""
    if isinstance(device, LocalDevice):
        return
    names = ("setsid", "sha256sum")
    script = 'for name; do command -v "$name" >/dev/null || echo "$name"; done'
    done = device.run(["sh", "-c", script, "sh", *names], timeout_s=_TIMEOUT_S)
    absent = [name for name in names if name in done.stdout.split()]
    yield Check(
        "commands",
        f"{', '.join(absent)} {MISSING}" if absent else ", ".join(names),
        f"Install {', '.join(absent)} on it (util-linux, coreutils, toybox)" if absent else "",
        forbids=bool(absent),
    )


def _pinning(opened: OpenedDevice, condition: Condition, info: DeviceInfo) -> Iterator[Check]:
    groups = clusters(condition.processor_mhz or {})
    found = ", ".join(f"{len(g.cpus)} at {g.max_mhz:.0f} MHz" for g in groups) or UNKNOWN
    wanted = opened.setup.cpus
    mend = "Pin to one kind of cores, or times differ by a factor: --cpus big"
    yield Check("processors", found, mend if len(groups) > 1 and wanted is None else "")
    text = wanted if wanted is not None else "0"
    try:
        argv = pin_argv(opened.device, mask_of(text, groups, cores=info.cores))
        yield Check("pinning", " ".join(argv))
    except NasdeployError as error:
        yield Check("pinning", MISSING, str(error), forbids=wanted is not None)


def _state(condition: Condition, cores: int) -> Iterator[Check]:
    """What makes measurements unsteady; only a throttling phone cannot be measured at all."""
    load = condition.load_average
    busy = load is not None and load > 0.5 * cores
    yield Check(
        "load", UNKNOWN if load is None else f"{load:.2f}",
        "Close what else runs there: rounds will be measured again" if busy else "",
    )  # fmt: skip
    governors = sorted(set((condition.governors or {}).values()))
    slow = any(governor != "performance" for governor in governors)
    yield Check(
        "governor", ", ".join(governors) or UNKNOWN,
        "Where you are root: sudo cpupower frequency-set -g performance; else rounds that run "
        "slower are measured again" if slow else "",
    )  # fmt: skip
    yield _frequency(condition)
    yield from _warmth(condition)
    if condition.battery_percent is not None:
        low = condition.battery_percent < _LOW_BATTERY_PERCENT and not condition.charging
        charging = {True: ", charging", False: ", not charging", None: ""}[condition.charging]
        yield Check(
            "battery", f"{condition.battery_percent} %{charging}",
            "Plug it in: a nearly empty phone saves power" if low else "",
        )  # fmt: skip
    if condition.awake is not None:
        yield Check("screen", "on" if condition.awake else "off; woken and kept on for measuring")


def _frequency(condition: Condition) -> Check:
    able, allowed = condition.processor_mhz or {}, condition.highest_mhz or {}
    held = sorted(cpu for cpu, mhz in allowed.items() if mhz < able.get(cpu, 0.0))
    if not allowed:
        return Check("clock limits", UNKNOWN)
    if not held:
        return Check("clock limits", "as fast as it can")
    mend = "It is held down: let it cool, switch its battery saver off"
    return Check("clock limits", f"{', '.join(held)} below what they can", mend)


def _warmth(condition: Condition) -> Iterator[Check]:
    hottest = condition.hottest_c
    yield Check("temperature", UNKNOWN if hottest is None else f"{hottest:.1f} °C")
    status = condition.thermal_status
    if status is not None:
        hot = status >= THROTTLING_STATUS
        mend = "It is slowed down: let it cool, or wait with --max-temp 40" if hot else ""
        yield Check("thermal status", str(status), mend, forbids=hot)
    battery = condition.battery_c
    if battery is not None:
        mend = (
            f"Measuring waits until it has {BATTERY_MAX_C:g} °C" if battery > BATTERY_MAX_C else ""
        )
        yield Check("battery temperature", f"{battery:.1f} °C", mend)


def _clock(device: Device) -> Iterator[Check]:
    """Durations don't need it to be right; a clock far off is a sign of a board without battery."""
    done = device.run(["date", "+%s"], timeout_s=_TIMEOUT_S)
    text = done.stdout.strip()
    if not re.fullmatch(r"[0-9]{1,12}", text):
        yield Check("clock", UNKNOWN)
        return
    off_s = int(text) - time.time()
    mend = "Set it: sudo timedatectl set-ntp true" if abs(off_s) > _CLOCK_OFF_S else ""
    yield Check("clock", "right" if not mend else f"{off_s:+.0f} s off", mend)


def _host() -> Iterator[Check]:
    """What exporting and training need on this machine."""
    from nasdeploy.export.workers import available_bytes

    for name, folder in (("this folder", Path.cwd()), ("the cache", cache_dir())):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free
        mend = f"Make room on the disk of {there}" if free < ENOUGH_DISK_BYTES else ""
        if not os.access(there, os.W_OK):
            mend = f"{there} cannot be written to: work in another folder, or set NASDEPLOY_CACHE"
        yield Check(f"disk of {name}", f"{format_bytes(free)} free", mend)
    free = available_bytes()
    mend = "Close other programs, or export and train with one worker"
    yield Check("memory", f"{format_bytes(free)} free", mend if free < ENOUGH_MEMORY_BYTES else "")
