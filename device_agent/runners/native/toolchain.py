"""A C++ compiler for a device's processor, and the C library that can go along."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nasdeploy.errors import UsageError

_TIMEOUT_S = 30.0
_PACKAGES = {"x86_64": "g++-x86-64-linux-gnu", "aarch64": "g++-aarch64-linux-gnu"}
_LOADERS = {"x86_64": "ld-linux-x86-64.so.2", "aarch64": "ld-linux-aarch64.so.1"}
_C_LIBRARY = (
    "libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1",
    "libpthread.so.0", "libdl.so.2", "librt.so.1",
)  # fmt: skip

MACHINES = tuple(_LOADERS)


@dataclass(frozen=True, slots=True)
class Toolchain:
    """A compiler that makes programs for `machine`.

    Attributes:
        version: The first line that it prints about itself.
        flags: That it needs beside those that every compiler gets.
    """

    machine: str
    compiler: str
    version: str
    flags: tuple[str, ...] = ()

    @property
    def loader(self) -> str:
        """The name of the program that loads others, part of the C library."""
        return _LOADERS[self.machine]

    def c_library(self) -> dict[str, Path]:
        """The C library's files by name, for devices that have another one, or an older.

        Raises: `UsageError` when the compiler does not know where they are.
        """
        found = {}
        for name in (self.loader, *_C_LIBRARY):
            printed = _output(self.compiler, f"-print-file-name={name}")
            if printed is None or not Path(printed).is_file():
                raise UsageError(
                    f"{self.compiler} has no {name}, which goes to the device along with the "
                    f"runner. Install Debian's {_PACKAGES[self.machine]}."
                )
            found[name] = Path(printed).resolve()
        return found


def find_toolchain(machine: str) -> Toolchain:
    """The compiler for a machine as `uname -m` prints it: $CXX, Debian's cross compiler, g++, c++.

    Raises: `UsageError` that says what to install.
    """
    if machine not in MACHINES:
        raise UsageError(
            f"There is no native runner for {machine}: the runtimes' wheels are for "
            f"{' and '.join(MACHINES)}."
        )
    candidates = [os.environ.get("CXX"), f"{machine}-linux-gnu-g++", "g++", "c++", "clang++"]
    for candidate in filter(None, candidates):
        found = shutil.which(candidate)
        if found and (toolchain := _asked(found, machine)):
            return toolchain
    own = machine == platform.machine()
    package = "g++" if own else _PACKAGES[machine]
    instead = " Without one, this machine can be measured with --runner python." if own else ""
    raise UsageError(
        f"There is no C++ compiler for {machine} Linux, and the runners are built on this machine. "
        f"Install one (Debian: apt install {package}) or name one in CXX.{instead}"
    )


@functools.cache
def _asked(compiler: str, machine: str) -> Toolchain | None:
    """The compiler, if it is one for that machine with the GNU C library."""
    target = _output(compiler, "-dumpmachine") or ""
    version = first_line(compiler, "--version")
    if version is None or not (target.startswith(machine) and target.endswith("linux-gnu")):
        return None
    return Toolchain(machine, compiler, version)


def first_line(compiler: str, argument: str) -> str | None:
    """Of what a compiler prints; None when it cannot be run, fails or prints nothing."""
    printed = _output(compiler, argument)
    return printed.splitlines()[0] if printed else None


def _output(compiler: str, argument: str) -> str | None:
    try:
        done = subprocess.run(
            [compiler, argument], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 and done.stdout.strip() else None
