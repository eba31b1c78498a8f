"""What is pushed to a device behind a cable, and how much of it at once.

A phone takes tens of milliseconds to start a command, whatever it does. So files go in batches: one
command that looks at what is there, the files themselves, one that puts them in place. A batch is
bounded, so that a cable that is pulled costs no more than that much.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nasdeploy import durable
from nasdeploy.device_agent.device import Finished

_FILES = 80  # their paths have to fit in a command line, of which adb carries 64 KiB
_BYTES = 32 << 20


@dataclass(frozen=True, slots=True)
class Copy:
    """A file of this machine, and where it belongs below our folder on the device."""

    local: Path
    below: str
    sha256: str
    size_bytes: int
    mode: str

    def is_what(self, said: str) -> bool:
        """Whether a device that says this of the place has it already."""
        return said == f"file {self.size_bytes} {self.sha256}"


def copy_of(local: Path, below: str) -> Copy:
    mode = "755" if os.access(local, os.X_OK) else "644"
    return Copy(local, below, durable.sha256_file(local), local.stat().st_size, mode)


def batches(copies: Iterable[Copy]) -> Iterator[list[Copy]]:
    """In their order; a file that is larger than a batch goes by itself."""
    batch: list[Copy] = []
    size_bytes = 0
    for copy in copies:
        if batch and (len(batch) == _FILES or size_bytes + copy.size_bytes > _BYTES):
            yield batch
            batch, size_bytes = [], 0
        batch.append(copy)
        size_bytes += copy.size_bytes
    if batch:
        yield batch


def why_not_placed(copies: Sequence[Copy], done: Finished) -> str | None:
    """The first file that `device_scripts.PLACE` did not put in its place, and why; None if all."""
    answers = done.stdout.splitlines()
    placed = answers.count("placed")
    if placed == len(copies) == len(answers):
        return None
    local = copies[min(placed, len(copies) - 1)].local
    if answers and answers[-1].startswith("sha256 "):
        return (
            f"{local}: what was sent has another sha256 than what it says is there "
            f"({answers[-1][7:71]}), and was not put in place. Try another cable or another "
            "storage, and run the command again."
        )
    said = (done.stderr.strip().splitlines() or answers or ["nothing"])[-1]
    return f"{local}; it says: {said[:200]}"
