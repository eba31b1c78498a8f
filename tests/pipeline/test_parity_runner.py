"""What runs a file whose outputs are compared with the model's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from nasdeploy.device_agent.device import DeviceInfo
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.readiness import Setup
from nasdeploy.device_agent.runners.native.runner import NativeRunner
from nasdeploy.export.artifact import Artifact, Target
from nasdeploy.pipeline.config import make_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.opening import OpenedDevice
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.export import _where_it_runs

HERE = LocalDevice().info().target
MACHINES = {"arm64": "aarch64", "x86-64": "x86_64"}
THERE = cast(Target, next(target for target in MACHINES if target != HERE))


class Board(LocalDevice):
    """A device of another kind of processor."""

    def info(self) -> DeviceInfo:
        return replace(super().info(), machine=MACHINES[THERE])


@pytest.mark.parametrize("choice", ["native", "program"])
def test_a_program_that_tells_only_times_is_not_asked_for_outputs(
    choice: str, tmp_path: Path
) -> None:
    program = tmp_path / "benchmark_model"
    program.write_text("#!/bin/sh\n")
    config = make_config({"runtime": "litert", "precision": "fp32", "data": "none"}, source="test")
    runner = str(program) if choice == "program" else choice
    opened = OpenedDevice(Board(tmp_path), setup=Setup(), runner_choice=runner)
    context = Context(config, opened, Console())
    artifact = Artifact(
        tmp_path / "w.tflite", "litert", "fp32", THERE, 0, "", (), (), "none", None, None, {}
    )
    device, runs = _where_it_runs(context, artifact)
    assert device is opened.device
    assert isinstance(runs, NativeRunner)
    assert runs.recipe.source == "litert.cpp"
