"""What every stage is handed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from nasdeploy.device_agent.device import Device, DeviceInfo
from nasdeploy.device_agent.readiness import Setup
from nasdeploy.device_agent.runners.runner import Runner
from nasdeploy.durable import cache_dir
from nasdeploy.latency_tables.table import LatencyTable, Origin
from nasdeploy.pipeline.config import Precision, RunConfig, Runtime
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.opening import OpenedDevice


@dataclass(frozen=True)
class Context:
    """A run's configuration, its device, and where to write to.

    Attributes:
        resume: Go on from what an earlier call left; without it a journal that is in the way is
            an error, so that nobody overwrites hours of measuring by a repeated command.
        probe_precision: Of sentinel and empty graph; that of the configuration if None.
    """

    config: RunConfig
    opened: OpenedDevice
    console: Console
    cache: Path = field(default_factory=cache_dir)
    resume: bool = True
    probe_precision: Precision | None = None

    @property
    def device(self) -> Device:
        return self.opened.device

    @property
    def setup(self) -> Setup:
        """How the device is to be while it is measured."""
        return self.opened.setup

    @property
    def simulated_from(self) -> LatencyTable | None:
        return self.opened.simulated_from

    @cached_property
    def runner(self) -> Runner:
        return self.opened.runner(self.config.runtime, say=self.console.log)

    @cached_property
    def origin(self) -> Origin:
        """What its times are: ``"measured"``, ``"emulated"`` or ``"simulated"``."""
        return self.opened.origin()

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
