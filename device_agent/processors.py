"""Which processors a measurement runs on: clusters, masks, and the command that pins to them.

A phone has two or three kinds of cores, and a network on the little ones takes twice as long.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from nasdeploy.device_agent.device import Device
from nasdeploy.errors import CommandFailed, UsageError

_TIMEOUT_S = 30.0
_MOST_CPUS = 1024


@dataclass(frozen=True, slots=True)
class Cluster:
    """Processors of one highest frequency."""

    cpus: tuple[int, ...]
    max_mhz: float


def clusters(max_mhz: Mapping[str, float]) -> tuple[Cluster, ...]:
    """The slowest cluster first, from the highest frequency of each processor (``"cpu0"``)."""
    by_frequency: dict[float, list[int]] = {}
    for name, mhz in max_mhz.items():
        if match := re.fullmatch(r"cpu([0-9]+)", name):
            by_frequency.setdefault(mhz, []).append(int(match[1]))
    return tuple(Cluster(tuple(sorted(by_frequency[mhz])), mhz) for mhz in sorted(by_frequency))


def check_cpus(text: str) -> None:
    """`UsageError` if `text` cannot be one of what `mask_of` reads, whatever the device."""
    if text not in ("big", "little"):
        _numbers(text)


def mask_of(text: str, groups: Sequence[Cluster], *, cores: int) -> int:
    """The processors that a user names, as a mask with a bit for each.

    Args:
        text: ``"big"`` or ``"little"`` (the fastest, the slowest cluster), ``"0-3,6"``, or a mask
            in hexadecimal, ``"0xf0"``.
        cores: How many processors the device has.
    Raises: `UsageError` for what cannot be read, and for what the device does not have.
    """
    if text in ("big", "little"):
        if len(groups) < 2:
            raise UsageError(
                f"This device tells of no {text} processors: "
                f"{'all are alike' if groups else 'their frequencies are unknown'}. "
                "Name them by number, such as --cpus 0-3, or leave --cpus out."
            )
        numbers: Collection[int] = groups[-1 if text == "big" else 0].cpus
    else:
        numbers = _numbers(text)
    beyond = sorted(number for number in numbers if number >= cores)
    if beyond:
        raise UsageError(f"--cpus {text}: the device has the processors 0 to {cores - 1}.")
    return sum(1 << number for number in numbers)


def _numbers(text: str) -> set[int]:
    if re.fullmatch(r"0[xX][0-9A-Fa-f]{1,256}", text) and int(text, 16):
        mask = int(text, 16)
        return {bit for bit in range(mask.bit_length()) if mask >> bit & 1}
    numbers: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,4})\s*(?:-\s*([0-9]{1,4})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < _MOST_CPUS:
            raise UsageError(
                f"{text!r} names no processors: write big, little, a list such as 0-3,6 or a mask "
                "such as 0xf0."
            )
        numbers.update(range(first, last + 1))
    return numbers


def pin_argv(device: Device, mask: int) -> tuple[str, ...]:
    """What is put in front of a command so that it runs on these processors, tried out.

    toybox and util-linux read the same bare hexadecimal mask.

    Raises: `CommandFailed` where there is no taskset, or the device runs elsewhere all the same.
    """
    argv = ("taskset", f"{mask:x}")
    try:
        done = device.run([*argv, "cat", "/proc/self/status"], timeout_s=_TIMEOUT_S)
    except CommandFailed as error:
        raise CommandFailed(f"{device.name} cannot pin to processors: {error}") from error
    if done.exit_code != 0:
        said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        raise CommandFailed(
            f"{device.name} cannot pin to the processors {mask:#x}; taskset said: {said[:200]}. "
            "Leave --cpus out, or install taskset (util-linux, toybox)."
        )
    allowed = _allowed(done.stdout)
    if allowed != mask:
        found = "nothing" if allowed is None else f"{allowed:#x}"
        raise CommandFailed(
            f"{device.name} was told to run on the processors {mask:#x} and runs on {found}. "
            "Some may be offline; name others with --cpus, or leave it out."
        )
    return argv


def _allowed(status: str) -> int | None:
    match = re.search(r"^Cpus_allowed:\s*([0-9A-Fa-f,]{1,512})$", status, re.MULTILINE)
    digits = match[1].replace(",", "") if match else ""
    return int(digits, 16) if digits else None
