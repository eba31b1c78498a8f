"""Who on which host has something under way on a device: told from its name alone."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import secrets
import socket
from pathlib import Path

# HOST-PID-STARTED-OBJECT.RANDOM.KIND
_NAME = re.compile(r"([0-9a-f]{8})-(\d+)-(\d+)-(\d+)\.[0-9a-f]{16}\.(group|err|part)")
_OBJECTS = itertools.count()


class Owner:
    """One device object in one process."""

    def __init__(self) -> None:
        process = f"{_this_host()}-{os.getpid()}-{_started(os.getpid())}"
        self._prefix = f"{process}-{next(_OBJECTS)}."

    def new_name(self) -> str:
        """For something that is put under way now; the kind is added to it with a dot."""
        return f"{self._prefix}{secrets.token_hex(8)}"

    def owns(self, name: str) -> bool:
        return name.startswith(self._prefix)


def is_name(name: str) -> bool:
    """Whether it is one that an `Owner` gave, with its kind."""
    return _NAME.fullmatch(name) is not None


def is_over(name: str) -> bool:
    """Whether its process was one of this host and has ended; of other hosts nothing is known."""
    match = _NAME.fullmatch(name)
    if match is None or match[1] != _this_host():
        return False
    return _started(int(match[2])) != match[3]


def _this_host() -> str:
    machine = Path("/etc/machine-id")
    identity = machine.read_text() if machine.is_file() else ""
    return hashlib.sha256(f"{identity}{socket.gethostname()}".encode()).hexdigest()[:8]


def _started(pid: int) -> str | None:
    """In ticks since this host was started; None when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]
    except OSError:
        return None
