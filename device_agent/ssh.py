"""A board over SSH: keys and known_hosts only, files by SFTP.

paramiko neither kills what it started nor notices a lost channel as such (the exit status is then
-1), so both go the way that `shell` describes.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import logging
import shlex
import socket
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasdeploy.device_agent.link import (
    CHUNK_BYTES,
    CONNECT_S,
    Deadline,
    Link,
    keep_alive,
    readable,
    send_at_once,
    still_open,
)
from nasdeploy.device_agent.remote import RemoteDevice
from nasdeploy.errors import CommandFailed, DeviceError, DeviceUnreachable, UsageError

if TYPE_CHECKING:
    import paramiko

_OF_THE_SYSTEM = Path("/etc/ssh/ssh_known_hosts")


class SshDevice(RemoteDevice):
    """A board with an SSH server and a user whose key it knows.

    Args:
        key: A private key; without it the agent's and those in ``~/.ssh`` are offered.
        known_hosts: Whose host keys are trusted; without it ``~/.ssh/known_hosts`` and the
            system's.
    """

    folders = ("~/.cache/nasdeploy", "/var/tmp/nasdeploy")

    def __init__(
        self,
        user: str,
        host: str,
        port: int = 22,
        *,
        name: str | None = None,
        key: Path | None = None,
        known_hosts: Path | None = None,
    ) -> None:
        address = f"{user}@{host}" if port == 22 else f"{user}@{host}:{port}"
        super().__init__(name or f"ssh:{address}", f"{host}:{port}")
        self.user, self.host, self.port = user, host, port
        self.key, self.known_hosts = key, known_hosts

    def _connect(self) -> Link:
        return _SshLink(self)


class _SshLink:
    splits = True

    def __init__(self, device: SshDevice) -> None:
        self._name = device.name
        self._client = _connected(device)
        self._sftp: paramiko.SFTPClient | None = None

    def close(self) -> None:
        self._client.close()

    def alive(self) -> bool:
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            return False
        return not isinstance(transport.sock, socket.socket) or still_open(transport.sock)

    def stream(self, line: str, deadline: Deadline) -> Generator[tuple[int, bytes]]:
        with self._errors():
            channel = self._open_session()
            try:
                channel.settimeout(CONNECT_S)
                channel.exec_command(line)
                while True:
                    ended = channel.closed or channel.eof_received  # before what is left is read
                    chunks = list(_waiting(channel))
                    yield from chunks
                    if ended:
                        return
                    if not chunks and not readable(channel, deadline):
                        yield 1, b""
            finally:
                channel.close()

    def send(self, files: Sequence[tuple[Path, str]], deadline: Deadline) -> None:
        with self._transfer("took no file") as (sftp, channel):
            for local, remote in files:
                with local.open("rb") as file, sftp.open(remote, "wb") as target:
                    target.set_pipelined(True)
                    while chunk := file.read(CHUNK_BYTES // 2):
                        channel.settimeout(deadline.left_s())
                        target.write(chunk)
            # pipelined writes are not waited for: an answer to what comes after them says that the
            # connection carried them all
            if files:
                sftp.stat(files[-1][1])

    def fetch(self, remote: str, take: Callable[[bytes], None], deadline: Deadline) -> None:
        with self._transfer("gave no file") as (sftp, channel), sftp.open(remote, "rb") as source:
            source.prefetch(source.stat().st_size or 0)
            while chunk := source.read(CHUNK_BYTES // 2):
                channel.settimeout(deadline.left_s())
                take(chunk)

    def _open_session(self) -> paramiko.Channel:
        transport = self._client.get_transport()
        if transport is None or not transport.is_active():
            raise ConnectionResetError("the connection was closed")
        return transport.open_session(timeout=CONNECT_S)

    @contextlib.contextmanager
    def _transfer(self, refusal: str) -> Generator[tuple[paramiko.SFTPClient, paramiko.Channel]]:
        """SFTP, opened once, and the channel that it goes through."""
        with self._errors():
            if self._sftp is None:
                self._sftp = self._client.open_sftp()
            channel = self._sftp.get_channel()
            assert channel is not None
            channel.settimeout(CONNECT_S)
            try:
                yield self._sftp, channel
            except OSError as error:
                # a refusal is an OSError too, and leaves the channel as it is
                if isinstance(error, TimeoutError | ConnectionError) or channel.closed:
                    raise
                raise CommandFailed(f"{self._name} {refusal}: {error}.") from error

    @contextlib.contextmanager
    def _errors(self) -> Generator[None]:
        import paramiko

        try:
            yield
        except TimeoutError:
            raise
        except (OSError, EOFError, paramiko.SSHException) as error:
            reason = str(error) or type(error).__name__
            raise DeviceUnreachable(f"{self._name} was lost: {reason}.") from error


def _waiting(channel: paramiko.Channel) -> Generator[tuple[int, bytes]]:
    while channel.recv_ready():
        yield 1, channel.recv(CHUNK_BYTES)
    while channel.recv_stderr_ready():
        yield 2, channel.recv_stderr(CHUNK_BYTES)


# ---- who may connect, and to whom


def _connected(device: SshDevice) -> paramiko.SSHClient:
    import paramiko

    logger = logging.getLogger("paramiko")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())  # what it has to say comes as an error of ours
    for path, what in ((device.key, "private key"), (device.known_hosts, "known_hosts file")):
        if path and not path.is_file():
            raise UsageError(f"{device.name}: there is no {what} {path}.")
    client = paramiko.SSHClient()
    client.set_missing_host_key_policy(_refusing(device))
    try:
        _load_known_hosts(client, device)
        client.connect(
            device.host,
            device.port,
            device.user,
            key_filename=str(device.key) if device.key else None,
            allow_agent=device.key is None,
            look_for_keys=device.key is None,
            timeout=CONNECT_S,
            banner_timeout=CONNECT_S,
            auth_timeout=CONNECT_S,
            channel_timeout=CONNECT_S,
        )
    except BaseException as error:
        client.close()
        if not isinstance(error, OSError | EOFError | paramiko.SSHException):
            raise
        raise _reason(device, error) from error
    transport = client.get_transport()
    if transport is not None and isinstance(transport.sock, socket.socket):
        keep_alive(transport.sock)
        send_at_once(transport.sock)
    return client


def _load_known_hosts(client: paramiko.SSHClient, device: SshDevice) -> None:
    """Those that OpenSSH's own client would read."""
    if device.known_hosts is not None:
        client.load_system_host_keys(str(device.known_hosts))
        return
    if _OF_THE_SYSTEM.is_file():
        client.load_system_host_keys(str(_OF_THE_SYSTEM))
    client.load_system_host_keys()


def _refusing(device: SshDevice) -> paramiko.MissingHostKeyPolicy:
    """A policy that refuses a host that is not known, and says how to make it known."""
    import paramiko

    class Refusing(paramiko.MissingHostKeyPolicy):
        def missing_host_key(
            self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey
        ) -> None:
            known = device.known_hosts or Path("~/.ssh/known_hosts")
            raise DeviceError(
                f"{device.name} is not a known host: its {key.get_name()} key has the fingerprint "
                f"{_fingerprint(key)}. If that is what `ssh-keygen -lf "
                "/etc/ssh/ssh_host_ed25519_key.pub` (or the file of that kind) says on the board, "
                f"accept it: ssh-keyscan -p {device.port} {device.host} >> {known}"
            )

    return Refusing()


def _reason(device: SshDevice, error: Exception) -> DeviceError:
    """What kept us out: a person has to do something, or the board does not answer."""
    import paramiko

    where = f"{device.user}@{device.host}"
    if isinstance(error, paramiko.BadHostKeyException):
        return DeviceError(
            f"{device.name} shows another host key than the known one: {_fingerprint(error.key)} "
            f"and not {_fingerprint(error.expected_key)}. Somebody else may be answering. If the "
            f"board was set up anew, forget the old key: ssh-keygen -R {_host_in_file(device)}"
        )
    if isinstance(error, paramiko.PasswordRequiredException):
        return DeviceError(f"The key for {device.name} needs its passphrase: ssh-add, then again.")
    refused = isinstance(error, paramiko.AuthenticationException)
    if refused or "No authentication methods" in str(error):
        return DeviceError(
            f"{device.name} takes none of the keys offered for {where}; passwords are not used. "
            f"Put one there: ssh-copy-id -p {device.port} {where}"
        )
    reason = str(error) or type(error).__name__
    return DeviceUnreachable(f"{device.name} does not answer at port {device.port}: {reason}.")


def _host_in_file(device: SshDevice) -> str:
    host = device.host if device.port == 22 else f"[{device.host}]:{device.port}"
    file = f" -f {device.known_hosts}" if device.known_hosts else ""
    return f"{shlex.quote(host)}{file}"


def _fingerprint(key: paramiko.PKey) -> str:
    """As OpenSSH prints it."""
    digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode()
    return f"SHA256:{digest.rstrip('=')}"
