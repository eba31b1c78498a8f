"""What every stage is handed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from nasdeploy.device_agent.device import Device, DeviceInfo
from nasdeploy.device_agent.runners.runner import Runner, open_runner
from nasdeploy.durable import cache_dir
from nasdeploy.pipeline.config import Precision, RunConfig, Runtime
from nasdeploy.pipeline.console import Console


@dataclass(frozen=True)
class Context:
    """A run's configuration, its device, and where to write to.

    Attributes:
        resume: Go on from what an earlier call left; without it a journal that is in the way is
            an error, so that nobody overwrites hours of measuring by a repeated command.
        probe_precision: Of sentinel and empty graph; that of the configuration if None.
    """

    config: RunConfig
    device: Device
    console: Console
    cache: Path = field(default_factory=cache_dir)
    resume: bool = True
    probe_precision: Precision | None = None

    @cached_property
    def runner(self) -> Runner:
        return open_runner(self.config.runtime, self.config.runner, say=self.console.log)

    @cached_property
    def info(self) -> DeviceInfo:
        return self.device.info()

    def of_file(self, runtime: Runtime, precision: Precision) -> Context:
        """The same run, for a file of another runtime or precision than was searched for.

        The probes only tell how steady the device is, so those of one precision serve both: the
        ones that a profile has left where it was of this runtime, else the ones quickest to export.
        """
        same = runtime == self.config.runtime
        return replace(
            self,
            config=self.config.model_copy(update={"runtime": runtime, "precision": precision}),
            probe_precision=self.config.precision if same else "fp32",
        )
