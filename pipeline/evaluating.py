"""One architecture on one data set: what it costs to run, and how well it does once trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nasdeploy.pipeline.config import RunConfig
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.data import DataSet
from nasdeploy.pipeline.estimating import estimator_of, open_table, statistic_of
from nasdeploy.pipeline.flow import held, load, make_context
from nasdeploy.pipeline.measuring import Measurements
from nasdeploy.pipeline.run_folder import RUNS, RunFolder, digest
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.search import measure_untrained
from nasdeploy.pipeline.stages.train import train_winner
from nasdeploy.search.counters import Quantity, count
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.spaces import make_space
from nasdeploy.search.task import Classification
from nasdeploy.units import format_ms


@dataclass
class Evaluation:
    """
    Args:
        config: The space at its own deployment, the data, and how to train and measure.
        at_data: Take the shape and classes of the data in place of the space's.
    """

    config: RunConfig
    arch: Arch
    console: Console
    at_data: bool

    @cached_property
    def data(self) -> DataSet:
        return load(self.config)

    @cached_property
    def space(self) -> SearchSpace:
        parameters = dict(self.config.space_parameters)
        if self.at_data:
            parameters["input_shape"] = list(self.data.input_shape)
            parameters["classes"] = len(self.data.classes)
        return make_space(self.config.space_name, **parameters)

    @cached_property
    def context(self) -> Context:
        return make_context(self.config, self.console)

    @property
    def folder(self) -> RunFolder:
        """Of its own: evaluating leaves the run that found an architecture as it is."""
        key = [dict(self.space.config), self.arch, self.config.data, self.config.images]
        return RunFolder(RUNS / f"evaluated-{self.space.name}-{digest(key)[:8]}")

    def counted(self, what: Quantity) -> int:
        """Of the network that ships."""
        network = self.space.build(self.arch, task=Classification())
        counts = count(network, [self.space.deployment.input_shape])
        return counts.value(what, self.config.precision)

    def trained(self) -> Mapping[str, Any]:
        """What a training with the configuration's settings comes to; known if it was done."""
        channels = self.space.deployment.input_shape[0]
        data = self.data.converted((channels, *self.data.input_shape[1:]))
        winner = {"arch": list(self.arch), "space": dict(self.space.config)}
        folder = self.folder
        with held(folder, self.config):
            outputs = train_winner(self.context, folder, data, winner)
        found: Mapping[str, Any] = outputs["winner"]
        return found

    def latency_ms(self) -> float:
        """On the configuration's table, else measured on its device, with random weights."""
        if self.config.table is not None:
            opened = open_table(self.config.table)
            statistic = statistic_of(self.config, opened.table)
            estimator = estimator_of(self.space, opened.table, statistic=statistic)
            ms = estimator(self.arch).ms
            self.console.log(f"Estimated on {opened.name}: {format_ms(ms)} ({statistic})")
            return ms
        folder, statistic = self.folder, self.config.bounds.statistic or "median"
        with held(folder, self.config):
            measured = measure_untrained(
                self.context,
                self.space,
                self.arch,
                Measurements(folder.measurements_path),
                statistic=statistic,
            )
        self.console.log(
            f"Measured on {self.context.device.name} ({self.config.runtime} "
            f"{self.config.precision}): {format_ms(measured.ms)} ({statistic}, "
            f"{measured.low_ms:.4g} to {measured.high_ms:.4g} ms, {measured.starts} starts)"
        )
        return measured.ms
