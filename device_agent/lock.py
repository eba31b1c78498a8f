"""One process at a time measures on a device: two would time each other."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from nasdeploy.device_agent.device import Device
from nasdeploy.durable import cache_dir
from nasdeploy.errors import DeviceError

_LOOK_AGAIN_S = 0.2
_SAY_EVERY_S = 5.0
_HELD: set[tuple[Path, int]] = set()


@contextlib.contextmanager
def device_lock(
    device: Device,
    *,
    timeout_s: float = 3600.0,
    on_wait: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Hold the device for this process; the kernel lets go of it when the process ends, however.

    Within the thread that holds it, asking again is free: a verification may be a part of a longer
    piece of work that holds the device throughout.

    Args:
        timeout_s: How long to wait for another holder; 0 doesn't wait.
        on_wait: Called with who holds it, before waiting and every five seconds.
    Raises: `DeviceError` naming the holder, after `timeout_s`.
    """
    path = _lock_path(device)
    mine = (path, threading.get_ident())
    if mine in _HELD:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        _acquire(file.fileno(), path, device.name, timeout_s, on_wait)
        file.truncate(0)
        program = Path(sys.argv[0]).name.replace("__main__.py", "nasdeploy")
        command = " ".join([program, *sys.argv[1:]])[:200]
        json.dump({"pid": os.getpid(), "command": command, "since": time.strftime("%H:%M")}, file)
        file.flush()
        _HELD.add(mine)
        try:
            yield
        finally:
            _HELD.discard(mine)


def _acquire(
    handle: int,
    path: Path,
    name: str,
    timeout_s: float,
    on_wait: Callable[[str], None] | None,
) -> None:
    deadline = time.monotonic() + timeout_s
    say_at = time.monotonic()
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _holder(path)
        if time.monotonic() >= deadline:
            raise DeviceError(
                f"The device {name} is being measured by {holder}; two at once would time each "
                "other. Wait for it to end, or stop it, and run the same command again."
            )
        if on_wait and time.monotonic() >= say_at:
            on_wait(f"waiting for the device {name}, held by {holder}")
            say_at = time.monotonic() + _SAY_EVERY_S
        time.sleep(_LOOK_AGAIN_S)


def _holder(path: Path) -> str:
    try:
        held = json.loads(path.read_text())
        return f"process {held['pid']} ({held['command']}) since {held['since']}"
    except (ValueError, KeyError, TypeError, OSError):
        return "another process"  # it has just taken the lock and not yet written who it is


def _lock_path(device: Device) -> Path:
    """On this side: processes that want one device are started by one user on one host."""
    readable = re.sub(r"[^\w.-]+", "-", device.place)[:60]
    digest = hashlib.sha256(device.place.encode()).hexdigest()[:8]
    return cache_dir() / "locks" / f"{readable}-{digest}.lock"
