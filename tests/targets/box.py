"""A device on this machine: real daemons, confined by namespaces as if by a cable.

It has files, processes and a network of its own, and is reached through a relay on this machine's
loopback, which can also cut the cable. What a daemon had started runs on when the daemon dies, as
on a real device; what ends the box ends everything in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

SCRIPT = Path(__file__).with_name("box.sh")
_CLONE_NEWNET = 0x40000000
_PATIENCE_S = 15.0


def wait_until(ready: Callable[[], object], what: str, *, patience_s: float = _PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come about within {patience_s:g} s")
        time.sleep(0.01)


class Box:
    """A device with one daemon in it.

    Args:
        daemon: Its command line in the box, and how its processes' names begin.
        inner_port: Where it listens, in the box.
    """

    def __init__(
        self,
        kind: Literal["linux", "phone"],
        scratch: Path,
        *,
        daemon: Sequence[str],
        named: str,
        inner_port: int,
        environment: Mapping[str, str],
        uid: int = 0,
    ) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._daemon = daemon
        self._named = named
        self._inner_port = inner_port
        self._environment = dict(environment)
        self._uid = uid
        self._full = False
        self._started: list[subprocess.Popen[bytes]] = []
        with (scratch.parent / f"{scratch.name}.log").open("wb") as log:
            self._holder = subprocess.Popen(
                ["unshare", "-m", "-u", "-i", "-n", "-p", "--fork", "--kill-child",
                 "sh", str(SCRIPT), kind, str(scratch)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != b"ready\n":
            said = (scratch.parent / f"{scratch.name}.log").read_text().strip()
            raise OSError(f"no device could be made of namespaces: {said}")
        children = Path(f"/proc/{self._holder.pid}/task/{self._holder.pid}/children").read_text()
        self._init = int(children.split()[0])
        self._space = Path(f"/proc/{self._init}/ns/pid").stat().st_ino
        self.relay = Relay(self._init, inner_port)

    @property
    def port(self) -> int:
        """On this machine's loopback."""
        return self.relay.port

    def path(self, inside: str) -> Path:
        """A file of the device, seen from here."""
        return Path(f"/proc/{self._init}/root") / inside.lstrip("/")

    def processes(self) -> dict[int, str]:
        """The command line of each process in the device, its first and its daemon left out."""
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == self._init:
                continue
            with contextlib.suppress(OSError):
                if (folder / "ns/pid").stat().st_ino != self._space:
                    continue
                name = (folder / "comm").read_text().strip()
                words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                if words and not name.startswith(self._named) and words != "sleep 100000":
                    found[int(folder.name)] = words
        return found

    def heal(self) -> None:
        """As on the first day: the daemon answers, the cable is whole, there is room."""
        self.relay.cut_after(None)
        self.relay.on_cut = None
        self.room()
        self.thaw()
        if not self._daemons():
            self.start_daemon()

    def start_daemon(self) -> None:
        # by its path: the PATH of what it starts is the device's
        argv = [
            shutil.which("nsenter") or "nsenter",
            "-t",
            str(self._init),
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-r",
            "-w",
        ]
        argv += ["-S", str(self._uid), "-G", str(self._uid)]
        self._started.append(
            subprocess.Popen(
                [*argv, *self._daemon],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        )
        wait_until(self._listens, f"{self._named} listening")

    def kill_daemon(self) -> None:
        """All of its processes at once, so that none can clean up."""
        self._signal(signal.SIGKILL)
        wait_until(lambda: not self._daemons(), f"the end of {self._named}")

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)
        for started in self._started:  # which stop when what they started stops
            if started.poll() is None:
                started.send_signal(signal.SIGCONT)

    def fill(self, folder: str, *, leave_bytes: int) -> None:
        """Leave so little room on the disk of a folder."""
        stat = os.statvfs(self.path(folder))
        self._filler = self.path(folder) / "filler"
        with self._filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, stat.f_bavail * stat.f_frsize - leave_bytes)

    def room(self) -> None:
        if filler := getattr(self, "_filler", None):
            filler.unlink(missing_ok=True)

    def reboot(self) -> None:
        """End every process at once; what is on the disk stays. The daemon has to be started."""
        self.freeze()  # or it would still tell how its children ended
        for pid in [*self.processes(), *self._daemons()]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self._daemons() and not self.processes(), "the end of everything")

    def stop(self) -> None:
        self.relay.close()
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()
        for started in self._started:
            started.kill()
            started.wait()

    def _daemons(self) -> list[int]:
        found = []
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                with contextlib.suppress(OSError):
                    in_it = (folder / "ns/pid").stat().st_ino == self._space
                    state = (folder / "stat").read_text().rpartition(") ")[2][0]
                    name = (folder / "comm").read_text()
                    if in_it and state != "Z" and name.startswith(self._named):
                        found.append(int(folder.name))
        return found

    def _signal(self, number: signal.Signals) -> None:
        for pid in self._daemons():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _listens(self) -> bool:
        place = f":{self._inner_port:04X}"
        for family in ("tcp", "tcp6"):
            lines = Path(f"/proc/{self._init}/net/{family}").read_text().splitlines()[1:]
            if any(x.split()[1].endswith(place) and x.split()[3] == "0A" for x in lines):
                return True
        return False


class Relay:
    """The cable: from a port of this machine's loopback into the network of a box."""

    def __init__(self, inside: int, inner_port: int) -> None:
        self._inside = inside
        self._inner_port = inner_port
        self._left: int | None = None
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cuts = 0
        self.on_cut: Callable[[], None] | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def cut_after(self, count: int | None) -> None:
        """Cut the cable once, after so many more bytes to the device; None: don't."""
        with self._lock:
            self._left = count

    def cut(self) -> None:
        """Pull the cable and put it back."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self.cuts += 1
        for pair in pairs:
            for end in pair:
                with contextlib.suppress(OSError):  # a reset, and no orderly goodbye
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
                end.close()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        # sockets that this thread opens are of the box's network from here on; the listener is not
        handle = os.open(f"/proc/{self._inside}/ns/net", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(handle, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
        os.close(handle)
        while True:
            try:
                outer, _ = self._listener.accept()
            except OSError:
                return
            try:
                inner = socket.create_connection(("127.0.0.1", self._inner_port))
            except OSError:
                outer.close()  # as a port behind which nothing listens
                continue
            for end in (outer, inner):  # a cable holds nothing back
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._pairs.append((outer, inner))
            for ends in ((outer, inner, True), (inner, outer, False)):
                threading.Thread(target=self._pump, args=ends, daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if counted and (kept := self._spend(len(data))) is not None:
                    target.sendall(data[:kept])
                    if self.on_cut:
                        self.on_cut()
                    self.cut()
                    return
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _spend(self, count: int) -> int | None:
        """How much of so many bytes still goes through before the cut; None: all of it."""
        with self._lock:
            if self._left is None:
                return None
            kept, self._left = self._left, self._left - count
            if self._left >= 0:
                return None
            self._left = None
            return kept


def missing_for_a_box() -> str | None:
    """What a box needs and this machine has not, with its Debian package."""
    if os.geteuid() != 0:
        return "root, for namespaces"
    packages = {"unshare": "util-linux", "ip": "iproute2"}
    return next((p for tool, p in packages.items() if not shutil.which(tool)), None)
