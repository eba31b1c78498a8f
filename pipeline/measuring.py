"""Measuring whole networks against a bound, each measurement on the disk before it is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.measure import MeasureConfig
from nasdeploy.device_agent.statistics import Statistic, Statistics
from nasdeploy.device_agent.verify import NetworkMeasurement, measure_network
from nasdeploy.durable import Journal, read_jsonl, sha256_file
from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.table import LatencyTable
from nasdeploy.pipeline.run_folder import digest, now
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.files import measuring_update, probe_graphs

STARTS = 3
_LONGER = 1, 2, 4  # times what is configured, while a bound is undecided


@dataclass(frozen=True, slots=True)
class NetworkLatency:
    """What a network's file took on the device.

    Attributes:
        name: Of the network among the run's measurements.
        file_sha256: Of what was measured.
        device: The device's fingerprint.
        ms: The bound's statistic, over all process starts, its 95 % interval `low_ms` to `high_ms`.
        median_ms: Always beside it.
        statistics: All of them, as a table's anchor has them.
        measured: When, ISO 8601 in UTC.
        origin: ``"measured"``, or what else its times are: ``"emulated"``, ``"simulated"``.
        slowdown: What the sentinel took, as a multiple of what it took when the table was measured;
            None where there is no such table.
    """

    name: str
    file_sha256: str
    device: str
    runtime: str
    runner: str
    precision: str
    threads: int
    statistic: str
    clock: str
    ms: float
    low_ms: float
    high_ms: float
    median_ms: float
    n: int
    starts: int
    peak_rss_bytes: int | None
    statistics: Mapping[str, Any]
    measured: str
    origin: str = "measured"
    slowdown: float | None = None

    def within(self, bound_ms: float) -> bool:
        """The whole interval lies within the bound."""
        return self.high_ms <= bound_ms


def columns(statistics: Statistics) -> dict[str, Any]:
    """Statistics as a table's rows and anchors name them."""
    return {
        "n": statistics.n,
        "min_ms": statistics.min_ms,
        "p10_ms": statistics.p10_ms,
        "median_ms": statistics.median_ms,
        "p90_ms": statistics.p90_ms,
        "p95_ms": statistics.p95_ms,
        "mad_ms": statistics.mad_ms,
        "mean_ms": statistics.mean_ms,
        "ci95_ms": statistics.ci95_ms,
    }


def usual_sentinel_ms(table: LatencyTable) -> float | None:
    """What the sentinel took when a table was measured, in the slowest of its sessions."""
    known = [session.get("reference_ms") for session in table.sessions.values()]
    return max((value for value in known if value is not None), default=None)


def network_config(context: Context, *, usual_ms: float | None = None) -> MeasureConfig:
    """How a run measures whole networks, on a device whose sentinel takes `usual_ms`."""
    verify = context.config.verify
    return MeasureConfig(
        threads=context.config.threads,
        min_samples=verify.min_samples,
        min_duration_s=verify.min_duration_s,
        usual_ms=usual_ms,
        wait_s=verify.wait_s,
        setup=context.setup,
    )


class Measurements:
    """The measurements of a run: recorded ones are taken as they are, others are made.

    A measurement is found again by its name and what it is of, so that a resumed run, or one that
    replays another's measurements, goes the same way.

    Args:
        path: measurements.jsonl of the run; the raw rounds lie beside it.
        replayed: Measurements of another run, to be used instead of measuring.
        anew: Measure again what is recorded; the new measurement stands beside the old one, and
            is the one that counts from then on.
    """

    def __init__(self, path: Path, replayed: Path | None = None, *, anew: bool = False) -> None:
        self.journal = Journal(path)
        self.rounds = path.with_name("rounds.jsonl")
        self._anew = anew
        self._replayed = read_jsonl(replayed) if replayed else []

    def recorded(self, name: str, wanted: Mapping[str, Any]) -> NetworkLatency | None:
        """The latest that is known already; a replayed measurement becomes one of this run."""
        for entries in (self.journal.entries, self._replayed):
            for entry in reversed(entries):
                if entry["name"] == name and all(entry.get(k) == v for k, v in wanted.items()):
                    if entries is self._replayed:
                        self.journal.append(entry)
                    return NetworkLatency(**entry)
        return None

    def _session(self, graph: Graph, wanted: Mapping[str, Any], seed: int) -> str:
        """A name in the journal of rounds that only this very measurement goes on with.

        It counts how often the network was measured to the end, so that another time is another
        session, and a measurement that was killed is the same one.
        """
        times = sum(entry["name"] == graph.id for entry in self.journal.entries)
        return f"{graph.id} {digest([graph.sha256, dict(wanted), seed])} {times + 1}"

    def measure(
        self,
        context: Context,
        name: str,
        path: Path,
        *,
        statistic: str,
        config: MeasureConfig,
        label: str,
        bound_ms: float | None = None,
    ) -> NetworkLatency:
        """The latency of the file at `path`, measured in three process starts unless it is known.

        As long as the bound lies inside the interval, nothing is decided: then it goes on, up to
        four times as long and in as many more starts, and all of the rounds count.

        A replayed measurement is found by name, runtime and precision: exporting the same network
        twice need not give the same bytes.
        """
        wanted = {
            "device": context.info.fingerprint,
            "runtime": context.config.runtime,
            "runner": context.runner.kind(context.device),
            "precision": context.config.precision,
            "threads": config.threads,
            "statistic": statistic,
        }
        known = self.recorded(name, wanted)
        if known is not None and not self._anew:
            return known
        session = self._session(Graph(name, path), wanted, context.config.seed)
        for times in _LONGER:
            measured = self._measured(context, Graph(name, path), session, config, times, label)
            statistics = measured.statistics(cast(Statistic, statistic))
            if statistics.ci95_ms is None:
                raise UsageError(
                    f"Too few rounds of {name} for an interval: raise min_samples or "
                    "min_duration_s of verify."
                )
            low_ms, high_ms = statistics.ci95_ms
            if bound_ms is None or not low_ms <= bound_ms < high_ms:
                break
        latency = NetworkLatency(
            name=name,
            file_sha256=sha256_file(path),
            **wanted,  # type: ignore[arg-type]
            clock="wall",
            ms=statistics.value(cast(Statistic, statistic)),
            low_ms=low_ms,
            high_ms=high_ms,
            median_ms=statistics.median_ms,
            n=statistics.n,
            starts=measured.session.starts,
            peak_rss_bytes=measured.peak_rss_bytes,
            statistics=columns(statistics),
            measured=now(),
            origin=context.origin,
            slowdown=_slowdown(context, measured, config),
        )
        self.journal.append(asdict(latency))
        return latency

    def _measured(
        self,
        context: Context,
        graph: Graph,
        session: str,
        config: MeasureConfig,
        times: int,
        label: str,
    ) -> NetworkMeasurement:
        """So many times as long as is configured; a session goes on with what it has already."""
        sentinel, empty = probe_graphs(context)
        longer = replace(
            config,
            min_samples=times * config.min_samples,
            min_duration_s=times * config.min_duration_s,
        )
        with context.console.progress(label) as update:
            return measure_network(
                context.device,
                context.runner,
                graph,
                sentinel=sentinel,
                empty=empty,
                config=longer,
                journal=Journal(self.rounds),
                seed=context.config.seed,
                starts=times * STARTS,
                name=session,
                on_progress=measuring_update(update),
            )


def _slowdown(
    context: Context, measured: NetworkMeasurement, config: MeasureConfig
) -> float | None:
    """Against when the table was measured; the user is told if it is more than usual."""
    reference_ms = measured.session.reference_ms
    if config.usual_ms is None or reference_ms is None:
        return None
    slowdown = reference_ms / config.usual_ms
    if slowdown > 1 + config.sentinel_tolerance:
        context.console.warn(
            f"{measured.graph} was measured while {context.device.name} was {slowdown:.2f} times "
            "as slow as when its table was measured: close what else runs on it and measure again, "
            "or measure the table anew (nasdeploy profile)."
        )
    return slowdown
