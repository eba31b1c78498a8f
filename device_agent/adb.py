"""A phone or board over ADB, through the user's own adb server: USB, TCP and paired wireless.

The server is the one that ``adb`` starts (``ANDROID_ADB_SERVER_HOST`` and ``_PORT`` say where), so
what ``adb devices`` lists can be used here at the same time. adbutils speaks to it; the two
services that move data are driven from here, since adbutils neither bounds the time that they take
nor streams: shell v2, in which stdout, stderr and the exit code come apart
(packages/modules/adb, shell_protocol.h), and sync (SYNC.TXT).
"""

from __future__ import annotations

import contextlib
import stat
import struct
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasdeploy.device_agent.link import CHUNK_BYTES, CONNECT_S, Deadline, Link, send_at_once
from nasdeploy.device_agent.remote import RemoteDevice
from nasdeploy.errors import CommandFailed, DeviceError, DeviceUnreachable

if TYPE_CHECKING:
    import socket

    import adbutils

FOLDERS = ("/data/local/tmp/nasdeploy", "~/.cache/nasdeploy")
_LONGEST_SERVICE = 0xFFFF
_STDOUT, _STDERR, _EXIT = 1, 2, 3
_PACKET_BYTES = 1 << 20

ADVICE = {
    "unauthorized": "it has not allowed this computer yet. Unlock it and accept the question "
    "'Allow USB debugging?'; if it does not ask, revoke the authorisations in its developer "
    "options and plug it in again",
    "offline": "it is attached and does not answer. Plug it in again, or run: "
    "adb reconnect offline",
    "no permissions": "this user may not open its USB port. Run: sudo apt install "
    "android-sdk-platform-tools-common; plug it in again; run: adb kill-server",
    "authorizing": "it is just being asked for permission. Wait a moment; look at its screen",
    "connecting": "it is just being connected. Wait a moment",
    "bootloader": "it is in its boot loader. Start it: fastboot reboot",
    "recovery": "it is in recovery mode. Start it: adb reboot",
    "sideload": "it waits for a system image. Start it: adb reboot",
}
"""What to do about a state that the adb server tells."""

_PASSING = ("offline", "authorizing", "connecting")


class AdbDevice(RemoteDevice):
    """A device that the adb server knows by `serial`.

    A serial that is HOST:PORT is connected by the server if it isn't yet.
    """

    folders = FOLDERS

    def __init__(self, serial: str, *, name: str | None = None) -> None:
        super().__init__(name or f"adb:{serial}", serial)
        self.serial = serial

    def _connect(self) -> Link:
        state = _state(self.serial)
        if ":" in self.serial and state in (None, "offline"):
            state = _ask_server_to_connect(self.name, self.serial, again=state is not None)
        if state is None:
            raise DeviceUnreachable(
                f"{self.name}: adb knows no device {self.serial}. Plug it in and switch on USB "
                "debugging; what is attached: adb devices"
            )
        if state != "device":
            advice = ADVICE.get(state, "adb devices tells more")
            kind = DeviceUnreachable if state in _PASSING else DeviceError
            raise kind(f"{self.name} is {state}: {advice}.")
        return _AdbLink(self.name, self.serial)


def list_attached() -> list[tuple[str, str]]:
    """Serial and state of everything that the adb server sees; ``"device"`` is a usable one.

    Raises: `DeviceUnreachable` when there is no adb server and none can be started.
    """
    with _adb_errors("the adb server"):
        found = _client().list()
    # adb puts a reason behind "no permissions", and adbutils keeps the first word
    return [(d.serial, "no permissions" if d.state == "no" else d.state) for d in found]


def _client() -> adbutils.AdbClient:
    import adbutils

    return adbutils.AdbClient(socket_timeout=CONNECT_S)


def _state(serial: str) -> str | None:
    return dict(list_attached()).get(serial)


def _ask_server_to_connect(name: str, address: str, *, again: bool) -> str | None:
    with _adb_errors(name):
        if again:
            _client().disconnect(address)
        _client().connect(address)
    return _state(address)


@contextlib.contextmanager
def _adb_errors(name: str) -> Generator[None]:
    """Whatever goes wrong between here, the adb server and the device is worth another try."""
    import adbutils

    try:
        yield
    except adbutils.AdbTimeout as error:
        raise DeviceUnreachable(f"{name} does not answer through the adb server.") from error
    except (adbutils.AdbError, EOFError, ConnectionError) as error:
        raise DeviceUnreachable(f"{name} was lost: {error or type(error).__name__}.") from error
    except ValueError as error:
        raise DeviceUnreachable(f"{name} sent what is not of adb's protocol: {error}") from error


class _AdbLink:
    """Every service is a connection of its own to the server, so nothing is kept open."""

    splits = True

    def __init__(self, name: str, serial: str) -> None:
        self._name = name
        self._serial = serial
        with _adb_errors(name):
            features = _client().device(serial).get_features()
        if "shell_v2" not in features.split(","):
            raise DeviceError(
                f"{name} has an adbd without shell v2 (Android 6 or older), which gives no exit "
                "codes. Over the network it can be used as adb+tcp:HOST:PORT."
            )

    def close(self) -> None:
        """Nothing to do: each service closes its connection."""

    def alive(self) -> bool:
        return True

    @contextlib.contextmanager
    def _service(self, service: str) -> Generator[socket.socket]:
        """A connection on which the device has taken up a service."""
        if len(service.encode()) > _LONGEST_SERVICE:
            raise CommandFailed(f"A command for {self._name} is longer than adb can carry.")
        with _adb_errors(self._name):
            connection = _client().device(self._serial).open_transport(timeout=CONNECT_S)
            try:
                connection.send_command(service)
                connection.check_okay()
                send_at_once(connection.conn)
                yield connection.conn
            finally:
                connection.conn.close()

    def stream(self, line: str, deadline: Deadline) -> Generator[tuple[int, bytes]]:
        with self._service(f"shell,v2,raw:{line}") as connection:
            while True:
                header = yield from _packet_header(connection, deadline)
                if not header:
                    return
                kind, size = struct.unpack("<BI", header)
                if size > _PACKET_BYTES:
                    raise DeviceUnreachable(f"{self._name} sent a packet of {size} bytes.")
                data = _exactly(connection, size, deadline)
                if kind == _EXIT:
                    return
                if kind in (_STDOUT, _STDERR) and data:
                    yield kind, data

    def send(self, files: Sequence[tuple[Path, str]], deadline: Deadline) -> None:
        with self._service("sync:") as connection:
            for local, remote in files:
                try:
                    _write_file(connection, local, remote, deadline)
                except ConnectionError:
                    # a device that refuses says why before it hangs up
                    self._raise_refusal(connection, deadline)
                    raise
                self._raise_refusal(connection, deadline)

    def _raise_refusal(self, connection: socket.socket, deadline: Deadline) -> None:
        answer, size = struct.unpack("<4sI", _exactly(connection, 8, deadline))
        if answer == b"FAIL":
            reason = _exactly(connection, min(size, CHUNK_BYTES), deadline)
            raise CommandFailed(f"{self._name} took no file: {reason.decode(errors='replace')}.")
        if answer != b"OKAY":
            raise DeviceUnreachable(f"{self._name} answered {answer!r} to a file.")

    def fetch(self, remote: str, take: Callable[[bytes], None], deadline: Deadline) -> None:
        with self._service("sync:") as connection:
            _sync_request(connection, b"RECV", remote.encode(), deadline)
            while True:
                answer, size = struct.unpack("<4sI", _exactly(connection, 8, deadline))
                if answer == b"DONE":
                    return
                if answer not in (b"DATA", b"FAIL") or size > _PACKET_BYTES:
                    raise DeviceUnreachable(f"{self._name} answered {answer!r} to a file.")
                data = _exactly(connection, size, deadline)
                if answer == b"FAIL":
                    reason = data.decode(errors="replace")
                    raise CommandFailed(f"{self._name} gave no file: {reason}.")
                take(data)


def _write_file(connection: socket.socket, local: Path, remote: str, deadline: Deadline) -> None:
    mode = stat.S_IFREG | 0o644
    with local.open("rb") as file:
        _sync_request(connection, b"SEND", f"{remote},{mode}".encode(), deadline)
        while chunk := file.read(CHUNK_BYTES):
            _sync_request(connection, b"DATA", chunk, deadline)
    _write(connection, struct.pack("<4sI", b"DONE", int(local.stat().st_mtime)), deadline)


def _sync_request(connection: socket.socket, name: bytes, data: bytes, deadline: Deadline) -> None:
    _write(connection, struct.pack("<4sI", name, len(data)) + data, deadline)


def _write(connection: socket.socket, data: bytes, deadline: Deadline) -> None:
    connection.settimeout(deadline.left_s())
    connection.sendall(data)


def _packet_header(
    connection: socket.socket, deadline: Deadline
) -> Generator[tuple[int, bytes], None, bytes]:
    """Five bytes, or none at the end; an empty chunk is handed over as long as nothing comes."""
    while True:
        connection.settimeout(deadline.pulse_s())
        try:
            first = connection.recv(1)
        except TimeoutError:
            deadline.left_s()
            yield _STDOUT, b""
            continue
        return first and first + _exactly(connection, 4, deadline)


def _exactly(connection: socket.socket, size: int, deadline: Deadline) -> bytes:
    data = bytearray()
    while len(data) < size:
        connection.settimeout(deadline.left_s())
        chunk = connection.recv(size - len(data))
        if not chunk:
            raise ConnectionResetError("the connection was closed")
        data += chunk
    return bytes(data)
