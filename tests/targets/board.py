"""A virtual arm64 board: an emulated machine with OpenSSH and two adbd, a board's and a phone's.

Every instruction is translated, so what it takes says nothing; what it computes is what an arm64
machine computes.
"""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

from targets.board_image import BoardImage
from targets.box import wait_until

from nasdeploy.device_agent.ssh import SshDevice

_BOOT_S = 300.0
NEEDS = ("qemu-system-aarch64", "mmdebstrap", "cpio", "ssh-keygen", "setpriv")
"""The programs that it takes."""


class VirtualBoard:
    """The machine, up and answering once this is made.

    Attributes:
        serial, phone_serial: Its adbd, as a board and as a phone.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.image = BoardImage()
        self._console = folder / "console"
        self.ssh_port, adb_port, phone_port = _free_ports(3)
        self.serial, self.phone_serial = f"127.0.0.1:{adb_port}", f"127.0.0.1:{phone_port}"
        self.known_hosts = folder / "known_hosts"
        self.known_hosts.write_text(f"[127.0.0.1]:{self.ssh_port} {self.image.host_key}\n")
        ports = ((self.ssh_port, 22), (adb_port, 5555), (phone_port, 5556))
        forwards = "".join(f",hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in ports)
        self._machine = subprocess.Popen(
            [
                # whatever ends the tests ends it too
                *("setpriv", "--pdeathsig", "KILL", "qemu-system-aarch64"),
                *("-M", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "1024", "-no-reboot"),
                *("-display", "none", "-monitor", "none", "-serial", f"file:{self._console}"),
                *("-kernel", str(self.image.kernel), "-initrd", str(self.image.files)),
                *("-append", "console=ttyAMA0 quiet panic=-1 rdinit=/init"),
                *("-netdev", f"user,id=net,restrict=on{forwards}"),
                *("-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(folder / "qemu.log").open("wb"),
            start_new_session=True,
        )
        try:
            wait_until(self._answers, "the board", patience_s=_BOOT_S)
        except BaseException:
            self.stop()
            raise

    def device(self) -> SshDevice:
        return SshDevice(
            "pi",
            "127.0.0.1",
            self.ssh_port,
            key=self.image.client_key,
            known_hosts=self.known_hosts,
        )

    def stop(self) -> None:
        self._machine.send_signal(signal.SIGKILL)
        self._machine.wait()

    def _answers(self) -> bool:
        if self._machine.poll() is not None:
            raise OSError(f"the board ended: {self._said()}")
        return "board: ready" in self._said() and self._greets()

    def _greets(self) -> bool:
        """qemu takes every connection; only a server that is up says who it is."""
        try:
            with socket.create_connection(("127.0.0.1", self.ssh_port), timeout=2) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _said(self) -> str:
        return self._console.read_text(errors="replace") if self._console.exists() else ""


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in held]
    for server in held:
        server.close()
    return ports
