"""The runtimes' own Python packages as runners: a reference for the native ones."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nasdeploy
from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.errors import CommandFailed, UsageError

_CHECK_TIMEOUT_S = 120.0


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

    def kind(self, device: Device) -> str:
        return "python"

    def prepare(self, device: Device) -> None:
        """Nothing to do: the interpreter and its packages are there."""
        if not isinstance(device, LocalDevice):
            raise UsageError(
                f"The Python runner runs on this machine only, and not on {device.name}. Leave "
                "--runner python out."
            )

    def check(self, device: Device) -> str:
        self.prepare(device)
        done = device.run(self.argv(device, "--version"), timeout_s=_CHECK_TIMEOUT_S)
        if done.exit_code == 0:
            return str(json.loads(done.stdout)["version"])
        reason = (done.stderr.strip().splitlines() or ["nothing was printed"])[-1]
        raise CommandFailed(
            f"{self.runtime} does not start on {device.name}: {reason}. "
            f"Install it: {sys.executable} -m pip install {self.package}"
        )

    def argv(self, device: Device, job: str) -> Sequence[str]:
        # by an absolute path, since ours may have been found below a relative one; and -P, since
        # a file of the user's that is called json.py must not be imported instead of Python's
        places = [str(Path(nasdeploy.__file__).resolve().parents[1])]
        places += filter(None, [os.environ.get("PYTHONPATH")])
        path = f"PYTHONPATH={os.pathsep.join(places)}"
        return ("env", path, sys.executable, "-P", "-m", self.module, job)
