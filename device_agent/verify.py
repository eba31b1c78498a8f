"""A whole network, measured as the user will run it: several process starts, the call included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.measure import MeasureConfig, OnProgress, measure
from nasdeploy.device_agent.memory import peak_rss_bytes
from nasdeploy.device_agent.runners.runner import Runner
from nasdeploy.device_agent.session import Session
from nasdeploy.device_agent.statistics import Clock, Floats, Statistic, Statistics
from nasdeploy.durable import Journal


@dataclass(frozen=True, slots=True)
class NetworkMeasurement:
    """What one file takes on one device.

    Attributes:
        session: The rounds behind it.
        peak_rss_bytes: What a process that ran this file alone has held at most.
    """

    graph: str
    session: Session
    peak_rss_bytes: int

    def statistics(self, statistic: Statistic = "median", *, clock: Clock = "wall") -> Statistics:
        """With everything that a call costs; the interval covers how starts differ."""
        return self.session.statistics(
            self.graph, statistic, clock=clock, subtract_empty=False, by_start=True
        )

    def samples_by_start(self, clock: Clock = "wall") -> Sequence[Floats]:
        """For each process start, (rounds, warm runs of each) in milliseconds."""
        starts = self.session.samples[self.graph].starts
        values = self.session.runs(self.graph, clock)
        return [values[starts == start] for start in sorted(set(starts.tolist()))]


def measure_network(
    device: Device,
    runner: Runner,
    graph: Graph,
    *,
    sentinel: Graph,
    empty: Graph,
    config: MeasureConfig,
    journal: Journal,
    seed: int,
    starts: int = 3,
    name: str = "verify",
    on_progress: OnProgress | None = None,
) -> NetworkMeasurement:
    """Measure one network in at least `starts` process starts.

    A start fixes much that later stays as it is, such as where in memory things lie, so rounds of
    one start say too little about the next. Raises what `measure` raises, and `CommandFailed` when
    the network does not run.
    """
    session = measure(
        device,
        runner,
        [graph],
        sentinel=sentinel,
        empty=empty,
        config=replace(config, min_starts=max(starts, config.min_starts)),
        journal=journal,
        seed=seed,
        name=name,
        alone=[graph.id],
        on_progress=on_progress,
    )
    session.raise_failures()
    peak = _recorded_peak(journal, name)
    if peak is None:
        peak = peak_rss_bytes(device, runner, graph, threads=config.threads)
        journal.append({"session": name, "event": "memory", "peak_rss_bytes": peak})
    return NetworkMeasurement(graph.id, session, peak)


def _recorded_peak(journal: Journal, name: str) -> int | None:
    for entry in journal.entries:
        if entry.get("session") == name and entry.get("event") == "memory":
            return int(entry["peak_rss_bytes"])
    return None
