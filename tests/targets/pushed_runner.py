"""A runner whose clock is a script, for a device behind a cable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nasdeploy.device_agent.device import Device

SCRIPTED = Path(__file__).parent.parent / "device_agent" / "scripted_runner.py"


@dataclass(frozen=True)
class PushedRunner:
    """`scripted_runner.py`, pushed and run on the device, at a pace at which rounds can be hit."""

    runtime: str = "onnxruntime"
    suffix: str = ".onnx"

    def kind(self, device: Device) -> str:
        return "native"

    def prepare(self, device: Device) -> None:
        device.push(SCRIPTED, f"{device.workdir}/{SCRIPTED.name}")

    def check(self, device: Device) -> str:
        return "1"

    def argv(self, device: Device, job: str) -> Sequence[str]:
        program = PurePosixPath(job).with_name(SCRIPTED.name)
        return ("python3", str(program), "__import__('time').sleep(0.002) or 100_000", job)
