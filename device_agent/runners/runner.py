"""What measuring needs of a runner, and the ones that there are."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import nasdeploy
from nasdeploy.device_agent.device import Device
from nasdeploy.errors import CommandFailed, UnknownName

_CHECK_TIMEOUT_S = 120.0


class Runner(Protocol):
    """How one runtime is started on a device. The protocol that it speaks: `runners`."""

    @property
    def runtime(self) -> str: ...

    @property
    def suffix(self) -> str:
        """Of the files that it runs: ``".tflite"``."""
        ...

    def prepare(self, device: Device) -> None:
        """Put on the device what is needed there; nothing to do when it is there already."""
        ...

    def check(self, device: Device) -> str:
        """The runtime's version on the device, or `CommandFailed` that says how to get it."""
        ...

    def argv(self, job: str) -> Sequence[str]:
        """The command that carries out the job at this path on the device."""
        ...


@dataclass(frozen=True, slots=True)
class PythonRunner:
    """A runtime's own Python package, in this interpreter: for this machine only.

    Attributes:
        module: What ``python -m`` starts.
        package: What has to be installed for it.
    """

    runtime: str
    suffix: str
    module: str
    package: str

    def prepare(self, device: Device) -> None:
        """Nothing to do: the interpreter and its packages are there."""

    def check(self, device: Device) -> str:
        done = device.run(self.argv("--version"), timeout_s=_CHECK_TIMEOUT_S)
        if done.exit_code == 0:
            return str(json.loads(done.stdout)["version"])
        reason = (done.stderr.strip().splitlines() or ["nothing was printed"])[-1]
        raise CommandFailed(
            f"{self.runtime} does not start on {device.name}: {reason}. "
            f"Install it: {sys.executable} -m pip install {self.package}"
        )

    def argv(self, job: str) -> Sequence[str]:
        # by an absolute path, since ours may have been found below a relative one; and -P, since
        # a file of the user's that is called json.py must not be imported instead of Python's
        places = [str(Path(nasdeploy.__file__).resolve().parents[1])]
        places += filter(None, [os.environ.get("PYTHONPATH")])
        path = f"PYTHONPATH={os.pathsep.join(places)}"
        return ("env", path, sys.executable, "-P", "-m", self.module, job)


def _python_runner(runtime: str, suffix: str, package: str) -> PythonRunner:
    return PythonRunner(runtime, suffix, f"{__package__}.python_{runtime}", package)


RUNNERS: dict[str, Runner] = {
    runner.runtime: runner
    for runner in (
        _python_runner("executorch", ".pte", "executorch"),
        _python_runner("litert", ".tflite", "ai-edge-litert"),
        _python_runner("onnxruntime", ".onnx", "onnxruntime"),
    )
}


def open_runner(runtime: str) -> Runner:
    """The runner of a runtime; `UnknownName` says which there are."""
    if runtime not in RUNNERS:
        raise UnknownName("runtime", runtime, RUNNERS)
    return RUNNERS[runtime]
