"""This machine, as a device like any other."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from nasdeploy import durable
from nasdeploy.device_agent.device import DeviceInfo, Finished
from nasdeploy.device_agent.process import run_process
from nasdeploy.errors import CommandFailed, UsageError


class LocalDevice:
    """The machine that this runs on.

    Files are copied into a folder of our own, as on any other device, so that a file that is
    rewritten while it is measured changes nothing.
    """

    name = "local"

    def __init__(self, workdir: Path | None = None) -> None:
        folder = workdir or durable.cache_dir() / "device"
        folder.mkdir(parents=True, exist_ok=True)
        self._workdir = folder.resolve()

    @property
    def place(self) -> str:
        return f"local:{self._workdir}"

    @property
    def workdir(self) -> str:
        return str(self._workdir)

    def info(self) -> DeviceInfo:
        cpu = _cpu_model()
        system = _os_name()
        machine = platform.machine()
        cores = os.cpu_count() or 1
        fingerprint = f"{cpu or machine}, {cores} cores, {system}, kernel {platform.release()}"
        return DeviceInfo(
            fingerprint=fingerprint,
            model=_first_line("/sys/class/dmi/id/product_name", "/proc/device-tree/model"),
            soc=cpu,
            os_version=system,
            machine=machine,
            cores=cores,
            ram_bytes=_ram_bytes(),
            extra={
                "platform": "linux",
                "kernel": platform.release(),
                "libc": " ".join(platform.libc_ver()),
            },
        )

    def push(self, local: Path, remote: str) -> None:
        """Copy a file; one that is there with the same content already is left as it is."""
        target = self._inside(remote)
        digest = durable.sha256_file(local)
        if target.is_file() and durable.sha256_file(target) == digest:
            return
        with durable.replacing(target) as temporary:
            shutil.copyfile(local, temporary)
            if os.access(local, os.X_OK):
                temporary.chmod(0o755)
            if durable.sha256_file(temporary) != digest:
                raise CommandFailed(
                    f"{local} changed while it was copied to {target}. Run the command again."
                )

    def push_all(self, files: Sequence[tuple[Path, str]]) -> None:
        for local, remote in files:
            self.push(local, remote)

    def pull(self, remote: str, local: Path) -> None:
        source = self._inside(remote)
        if not source.is_file():
            raise CommandFailed(f"There is no file {source} on {self.name}.")
        with durable.replacing(local) as temporary:
            shutil.copyfile(source, temporary)

    def run(
        self,
        argv: Sequence[str],
        *,
        timeout_s: float,
        on_line: Callable[[str], None] | None = None,
    ) -> Finished:
        """Run `argv` and wait; see `process.run_process` for what is bounded and what is killed."""
        return run_process(argv, timeout_s=timeout_s, on_line=on_line)

    def clean(self) -> None:
        shutil.rmtree(self._workdir)
        self._workdir.mkdir()

    def _inside(self, remote: str) -> Path:
        """The path below our folder, links followed; `UsageError` when it leads out of it."""
        path = (self._workdir / remote).resolve()
        if path == self._workdir or not path.is_relative_to(self._workdir):
            raise UsageError(
                f"{remote!r} lies outside {self._workdir}, the one folder of {self.name} that "
                "may be written and read."
            )
        return path


def _cpu_model() -> str | None:
    """What /proc/cpuinfo calls the processor; on ARM often only a board's "Model" stands there."""
    found: dict[str, str] = {}
    for line in _text("/proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found.get("model name") or found.get("Model") or found.get("Hardware")


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()


def _ram_bytes() -> int | None:
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return None


def _first_line(*paths: str) -> str | None:
    """The first of these files that has text in it."""
    texts = (_text(path).strip("\0 \n") for path in paths)
    return next((text for text in texts if text), None)


def _text(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
