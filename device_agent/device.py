"""What the project needs of a device: files, commands, and what it says about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol


@dataclass(frozen=True, slots=True)
class Finished:
    """A command that ran to its end on the device."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str
    elapsed_s: float


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """Who a device is. What it does not tell is None, and shown as unknown.

    Attributes:
        fingerprint: A short text that is equal for the same device with the same system and
            differs otherwise; two tables are comparable only where it is equal.
        machine: The instruction set as `uname -m` prints it: ``"x86_64"``, ``"aarch64"``.
        extra: Whatever else it tells. ``platform`` is ``"android"`` or ``"linux"``.
    """

    fingerprint: str
    model: str | None
    soc: str | None
    os_version: str | None
    machine: str
    cores: int
    ram_bytes: int | None
    extra: Mapping[str, str] = field(default_factory=dict)

    @property
    def target(self) -> Literal["arm64", "x86-64"]:
        """What an exporter aims at: ``"arm64"`` or ``"x86-64"`` (int8 schemes differ)."""
        return "arm64" if self.machine in ("aarch64", "arm64") else "x86-64"


class Device(Protocol):
    """One phone, board or this machine.

    Every method raises `DeviceUnreachable` if the device stops answering.
    """

    @property
    def name(self) -> str:
        """How the user calls it; tables and run folders carry it."""
        ...

    @property
    def place(self) -> str:
        """What it is, however the user calls it: two names of one device have one place."""
        ...

    @property
    def workdir(self) -> str:
        """The one folder on the device that is ours. Remote paths lie below it."""
        ...

    def info(self) -> DeviceInfo: ...

    def push(self, local: Path, remote: str) -> None:
        """Copy a file to `remote`; it is there whole, checked by hash, or not at all.

        A program stays a program: what may be executed here may be executed there.
        """
        ...

    def push_all(self, files: Sequence[tuple[Path, str]]) -> None:
        """Copy each of the files as `push` does; behind a cable far sooner than one by one."""
        ...

    def pull(self, remote: str, local: Path) -> None: ...

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        on_line: Callable[[str], None] | None = None,
    ) -> Finished:
        """Run `argv` and wait. A non-zero exit is a result, not an exception.

        `on_line` is called with each line of stdout as the device prints it, so that a cut
        connection costs a line and not everything measured so far. At the timeout, or when this
        process is interrupted, the command and all its children are killed. An exit code below 0
        is the signal that ended it.
        """
        ...

    def clean(self) -> None:
        """Remove our folder, with everything that was pushed; nothing else is touched."""
        ...
