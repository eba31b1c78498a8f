"""What the remote devices need of a connection; each kind of cable has one."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Protocol

CONNECT_S = 10.0
PULSE_S = 20.0  # without output for so long, a device is asked whether it is still there
CHUNK_BYTES = 1 << 16


class Deadline:
    """A moment by which something has to be over; it may be moved."""

    def __init__(self, seconds: float) -> None:
        self.at = time.monotonic() + seconds

    def left_s(self) -> float:
        """Seconds that are left; `TimeoutError` when there are none."""
        left = self.at - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def pulse_s(self) -> float:
        """What may be waited for at once."""
        return min(self.left_s(), PULSE_S)

    def move_to(self, seconds: float) -> None:
        """Not later than in so many seconds."""
        self.at = min(self.at, time.monotonic() + seconds)


def send_at_once(connection: socket.socket) -> None:
    """Let nothing small wait for the answer to what was sent before it: 40 ms each time."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def keep_alive(connection: socket.socket) -> None:
    """Let a cable that was pulled be noticed within a minute, also while nothing is sent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 15),
        (socket.TCP_KEEPINTVL, 10),
        (socket.TCP_KEEPCNT, 3),
    ):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 45_000)


def still_open(connection: socket.socket) -> bool:
    """Whether the other end has not hung up; nothing is read and nothing waited for."""
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(connection, selectors.EVENT_READ)
            return not selector.select(0) or bool(connection.recv(1, socket.MSG_PEEK))
    except (OSError, ValueError):
        return False


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


def readable(connection: _HasFileno, deadline: Deadline) -> bool:
    """Wait until there is something to read; False when nothing came for `PULSE_S`."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection.fileno(), selectors.EVENT_READ)
        return bool(selector.select(deadline.pulse_s()))


class Link(Protocol):
    """A connection to a device.

    Every method raises `DeviceUnreachable` when the connection is lost and `TimeoutError` at the
    deadline; after either the link is of no more use.
    """

    splits: bool
    """Whether stderr comes apart from stdout."""

    def alive(self) -> bool:
        """Whether it is of use still, as far as can be said without asking the device."""
        ...

    def stream(self, line: str, deadline: Deadline) -> Generator[tuple[int, bytes]]:
        """Start a command line in the device's shell, and hand over what it prints as it comes.

        Its stdin is left open until the iterator is closed. Chunks are (1, stdout) and
        (2, stderr); an empty one comes when nothing was printed for `PULSE_S`.
        """
        ...

    def send(self, files: Sequence[tuple[Path, str]], deadline: Deadline) -> None:
        """Write files. `CommandFailed` with the device's reason when it refuses one."""
        ...

    def fetch(self, remote: str, take: Callable[[bytes], None], deadline: Deadline) -> None:
        """Hand over a file's content. `CommandFailed` with the device's reason when it refuses."""
        ...

    def close(self) -> None: ...
