"""A phone or board over ADB by TCP, without any adb program: adb-shell speaks to its adbd.

This is shell v1: there is no exit code and stderr comes mixed in, so both go the way that
`shell` describes, by an end mark and a file; and stdout is a terminal (adbd gives one to whatever
is not v2), a raw one that changes nothing in what is printed. A device that was paired wirelessly
(Android 11 and later) wants TLS, which adb-shell has not: it is reached through the adb server.

The key is the one that adb itself uses, ``~/.android/adbkey``; where there is none it is made, as
adb would make it, so that a device that allowed one has allowed the other.
"""

from __future__ import annotations

import contextlib
import io
import socket
import struct
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.device_agent.adb import ADVICE, FOLDERS
from nasdeploy.device_agent.link import (
    CONNECT_S,
    Deadline,
    Link,
    keep_alive,
    readable,
    send_at_once,
    still_open,
)
from nasdeploy.device_agent.remote import RemoteDevice
from nasdeploy.errors import CommandFailed, DeviceError, DeviceUnreachable

if TYPE_CHECKING:
    from adb_shell.adb_device import AdbDevice as Client
    from adb_shell.auth.sign_cryptography import CryptographySigner

_FOREVER_S = 10.0**9  # what adb-shell may wait: the deadline of a `_Socket` is what counts


class AdbTcpDevice(RemoteDevice):
    """A device whose adbd listens on a TCP port (``adb tcpip 5555``, or a board's own)."""

    folders = FOLDERS

    def __init__(self, host: str, port: int, *, name: str | None = None) -> None:
        # the adb server calls such a device HOST:PORT too
        super().__init__(name or f"adb+tcp:{host}:{port}", f"{host}:{port}")
        self.host, self.port = host, port

    def _connect(self) -> Link:
        return _AdbTcpLink(self.name, self.host, self.port)


def user_key() -> CryptographySigner:
    """The key with which adb introduces this user to devices; made where there is none."""
    from adb_shell.auth.keygen import keygen, write_public_keyfile
    from adb_shell.auth.sign_cryptography import CryptographySigner

    path = Path.home() / ".android" / "adbkey"
    if not path.exists():
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.touch(mode=0o600)
        keygen(str(path))
    public = path.with_name("adbkey.pub")
    if not public.exists():
        write_public_keyfile(str(path), str(public))
    try:
        return CryptographySigner(str(path))
    except (ValueError, TypeError, OSError) as error:
        raise DeviceError(
            f"{path} is not a key that can be used: {error}. Move it away; adb makes another."
        ) from error


class _Socket:
    """What adb-shell reads from and writes to, in place of its own TCP transport.

    That one takes a closed connection for one with nothing to say, and a write that took only a
    part of the data for a whole one.
    """

    def __init__(self, host: str, port: int) -> None:
        self.deadline = Deadline(CONNECT_S)
        self._address = (host, port)
        self._socket: socket.socket | None = None

    def connect(self, transport_timeout_s: float | None) -> None:
        self._socket = socket.create_connection(self._address, timeout=self.deadline.left_s())
        keep_alive(self._socket)
        send_at_once(self._socket)

    def close(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None

    def bulk_read(self, numbytes: int, transport_timeout_s: float | None) -> bytes:
        connection = self._open()
        connection.settimeout(self.deadline.left_s())
        data = connection.recv(numbytes)
        if not data:
            raise ConnectionResetError("the connection was closed")
        return data

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        connection = self._open()
        connection.settimeout(self.deadline.left_s())
        connection.sendall(data)
        return len(data)

    def has_more(self) -> bool:
        """Wait a little for more to read, and say whether it has come."""
        return readable(self._open(), self.deadline)

    def is_open(self) -> bool:
        return self._socket is not None and still_open(self._socket)

    def _open(self) -> socket.socket:
        if self._socket is None:
            raise ConnectionResetError("the connection was closed")
        return self._socket


class _AdbTcpLink:
    splits = False

    def __init__(self, name: str, host: str, port: int) -> None:
        from adb_shell.adb_device import AdbDevice as Client
        from adb_shell.transport.base_transport import BaseTransport

        BaseTransport.register(_Socket)  # adb-shell asks for one of these, and for nothing of it
        self._name = name
        self._socket = _Socket(host, port)
        self._client: Client = Client(self._socket, banner="nasdeploy")
        self._connect(host, port)

    def _connect(self, host: str, port: int) -> None:
        asked = False

        def remember(client: Any) -> None:
            nonlocal asked
            asked = True

        try:
            with self._errors():
                self._client.connect(
                    rsa_keys=[user_key()],
                    auth_timeout_s=_FOREVER_S,
                    read_timeout_s=_FOREVER_S,
                    auth_callback=remember,
                )
        except (TimeoutError, DeviceUnreachable) as error:
            self.close()
            if asked:
                raise DeviceError(
                    f"{self._name} is unauthorized: {ADVICE['unauthorized']}."
                ) from error
            if isinstance(error, DeviceUnreachable):
                raise
            raise DeviceUnreachable(
                f"{self._name} does not answer at {host}:{port} within {CONNECT_S:g} s."
            ) from error

    def close(self) -> None:
        self._client.close()

    def alive(self) -> bool:
        return self._socket.is_open()

    def stream(self, line: str, deadline: Deadline) -> Generator[tuple[int, bytes]]:
        # what is opened is acknowledged at once, whatever it then does
        self._socket.deadline = Deadline(CONNECT_S)
        with self._errors():
            chunks = self._client.streaming_shell(line, read_timeout_s=_FOREVER_S, decode=False)
            try:
                chunk = next(chunks, None)
            except TimeoutError:
                raise DeviceUnreachable(
                    f"{self._name} did not start a command within {CONNECT_S:g} s."
                ) from None
            self._socket.deadline = deadline
            while chunk is not None:
                yield 1, chunk
                while not self._socket.has_more():
                    yield 1, b""
                chunk = next(chunks, None)

    def send(self, files: Sequence[tuple[Path, str]], deadline: Deadline) -> None:
        self._socket.deadline = deadline
        with self._errors():
            for local, remote in files:
                self._client.push(str(local), remote, st_mode=0o100644, read_timeout_s=_FOREVER_S)

    def fetch(self, remote: str, take: Callable[[bytes], None], deadline: Deadline) -> None:
        self._socket.deadline = deadline
        with self._errors():
            self._client.pull(remote, _Into(take), read_timeout_s=_FOREVER_S)

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        from adb_shell import exceptions

        try:
            yield
        except TimeoutError:
            raise
        except (exceptions.AdbCommandFailureException, exceptions.PushFailedError) as error:
            reason = error.args[0] if error.args else ""
            if isinstance(reason, bytes | bytearray):
                reason = reason.decode(errors="replace")
            raise CommandFailed(f"{self._name} refused a file: {reason}.") from error
        except exceptions.InvalidCommandError as error:
            raise DeviceError(
                f"{self._name} does not speak plain ADB: {error}. A device that was paired "
                "wirelessly is reached through the adb server: adb pair, adb connect, adb:SERIAL"
            ) from error
        except (
            OSError,
            struct.error,
            KeyError,
            exceptions.AdbConnectionError,
            exceptions.AdbTimeoutError,
            exceptions.DeviceAuthError,
            exceptions.InvalidChecksumError,
            exceptions.InvalidResponseError,
        ) as error:
            reason = str(error) or type(error).__name__
            raise DeviceUnreachable(f"{self._name} was lost: {reason}.") from error


class _Into(io.BytesIO):
    """What adb-shell takes for a file in memory: hands over what is written to it."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        super().__init__()
        self._take = take

    def write(self, data: Any) -> int:
        self._take(bytes(data))
        return len(data)
