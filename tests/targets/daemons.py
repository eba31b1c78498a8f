"""The daemons that devices are reached by, each in a box: Google's adbd and OpenSSH."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from targets.box import Box, missing_for_a_box

from nasdeploy.device_agent.ssh import SshDevice

ADBD = Path("/usr/lib/android-sdk/platform-tools/adbd")
SSHD = Path("/usr/sbin/sshd")
REQUIRED = "NASDEPLOY_TARGETS"
"""Set to ``required`` where a target that is missing is a failure, as in CI."""

_PACKAGES = {
    str(ADBD): "adbd (from bookworm-backports on Debian 12)",
    "adb": "adb (from bookworm-backports on Debian 12)",
    str(SSHD): "openssh-server",
    "ssh-keygen": "openssh-client",
    "toybox": "toybox",
    "mksh": "mksh",
    "busybox": "busybox",
    "dash": "dash",
    "bash": "bash",
    "qemu-system-aarch64": "qemu-system-arm",
    "mmdebstrap": "mmdebstrap",
    "cpio": "cpio",
    "aarch64-linux-gnu-g++": "g++-aarch64-linux-gnu",
    "setpriv": "util-linux",
    "clang++": "clang and libc++-dev with libc++abi-dev",
    "ld.lld": "lld",
}
_SSHD_CONFIG = """
Port 22
HostKey /etc/ssh/box_host_key
AuthorizedKeysFile /etc/ssh/box_authorized_keys
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
PidFile none
Subsystem sftp internal-sftp
MaxStartups 100
"""


def missing(*tools: str, boxed: bool = True) -> str | None:
    """What a target needs and this machine lacks, with its Debian package."""
    absent = missing_for_a_box() if boxed else None
    for tool in tools:
        if not absent and not shutil.which(tool):
            absent = _PACKAGES[tool]
    return absent


def need(*tools: str, boxed: bool = True) -> None:
    """Skip the test where the machine lacks what its target needs."""
    if absent := missing(*tools, boxed=boxed):
        reason = f"this needs {absent}"
        if os.environ.get(REQUIRED) == "required":
            pytest.fail(f"{reason}, and {REQUIRED}=required")
        pytest.skip(reason)


class Adbd(Box):
    """A device with adbd, as a board or as a phone.

    Args:
        authenticates: Whether it takes only keys that it was given by `allow`.
    """

    def __init__(self, folder: Path, *, phone: bool, authenticates: bool) -> None:
        super().__init__(
            "phone" if phone else "linux",
            folder,
            daemon=["/adbd" if authenticates else str(ADBD), "--device_banner=device"],
            named="adbd",
            inner_port=5555,
            environment={
                "ADBD_PORT": "5555",
                "PATH": "/system/bin" if phone else "/usr/bin:/bin",
                "HOME": "/" if phone else "/root",
                **({"ANDROID_ROOT": "/system", "ANDROID_DATA": "/data"} if phone else {}),
            },
            uid=2000 if phone else 0,
        )
        if authenticates:
            self.path("/adbd").write_bytes(_with_authentication(ADBD.read_bytes()))
            self.path("/adbd").chmod(0o755)
        self.start_daemon()

    @property
    def serial(self) -> str:
        return f"127.0.0.1:{self.port}"

    def allow(self, public_key: Path) -> None:
        self.path("/data/misc/adb/adb_keys").write_text(public_key.read_text() + "\n")

    def forget_keys(self) -> None:
        self.path("/data/misc/adb/adb_keys").write_text("")


def _with_authentication(program: bytes) -> bytes:
    """Debian builds adbd with authentication switched off, by one byte that is stored at start."""
    places = list(re.finditer(rb"\x48\x8d\x05....\xc6\x00\x00\x48\x8d\x3d....\xe8", program, re.S))
    if len(places) != 1:
        raise OSError(f"this adbd is another than the known one: {len(places)} places, not 1")
    at = places[0].start() + 9
    return program[:at] + b"\x01" + program[at + 1 :]


class Sshd(Box):
    """A board with OpenSSH, which knows one key of one user, ``pi``."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            "linux",
            folder / "box",
            daemon=[str(SSHD), "-D", "-f", "/etc/ssh/box_config"],
            named="sshd",
            inner_port=22,
            environment={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
        self.key, self.known_hosts = folder / "key", folder / "known_hosts"
        host_key = folder / "host_key"
        for path in (self.key, host_key):
            make_key(path)
        etc = self.path("/etc")
        (etc / "ssh/box_config").write_text(_SSHD_CONFIG)
        shutil.copy(host_key, etc / "ssh/box_host_key")
        shutil.copy(self.key.with_suffix(".pub"), etc / "ssh/box_authorized_keys")
        for name, line in (
            ("passwd", "pi:x:4242:4242:pi:/home/pi:/bin/sh"),
            ("group", "pi:x:4242:"),
            ("shadow", "pi:*:19000::::::"),
        ):
            with (etc / name).open("a") as file:
                file.write(f"{line}\n")
        home = self.path("/home/pi")
        home.mkdir()
        os.chown(home, 4242, 4242)
        self.path("/run/sshd").mkdir(mode=0o755)
        self.know(host_key.with_suffix(".pub"))
        self.start_daemon()

    def know(self, host_key: Path) -> None:
        """Make this the key that is expected of the board."""
        kind, key = host_key.read_text().split()[:2]
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {kind} {key}\n")

    def device(self) -> SshDevice:
        return SshDevice("pi", "127.0.0.1", self.port, key=self.key, known_hosts=self.known_hosts)


def make_key(path: Path) -> None:
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(argv, check=True)


@dataclass(frozen=True)
class AdbServer:
    """An adb server of the tests' own, with keys of its own."""

    home: Path
    port: int

    @classmethod
    def choose(cls, home: Path) -> AdbServer:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        home.mkdir(parents=True, exist_ok=True)
        return cls(home, port)

    @property
    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.home),
            "ANDROID_ADB_SERVER_PORT": str(self.port),
            "ANDROID_ADB_SERVER_HOST": "127.0.0.1",
        }

    @property
    def public_key(self) -> Path:
        return self.home / ".android" / "adbkey.pub"

    def adb(self, *args: str) -> str:
        done = subprocess.run(
            ["adb", *args],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=20,
        )
        return done.stdout + done.stderr

    def stop(self) -> None:
        self.adb("kill-server")
