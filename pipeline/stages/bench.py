"""Measure any file: the protocol of a verification, without a run around it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.energy import Energy, measure_energy
from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.measure import MeasureConfig
from nasdeploy.device_agent.readiness import made_ready
from nasdeploy.device_agent.statistics import Statistic, check_statistic
from nasdeploy.device_agent.verify import measure_network
from nasdeploy.durable import Journal
from nasdeploy.errors import UsageError
from nasdeploy.export.exporters import SUFFIX
from nasdeploy.pipeline.config import make_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.opening import OpenedDevice
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.files import measuring_update, probe_graphs

STARTS = 3


def bench(
    path: Path,
    console: Console,
    *,
    opened: OpenedDevice,
    threads: int,
    samples: int,
    statistic: str,
    meter: Device | None = None,
) -> dict[str, Any]:
    """The latency of a file in milliseconds, over three process starts, as plain data.

    Args:
        meter: The same device once more, to read its power while the file runs.
    """
    check_statistic(statistic)
    runtimes = {suffix: runtime for runtime, suffix in SUFFIX.items()}
    if path.suffix not in runtimes:
        raise UsageError(f"{path} is none of {', '.join(sorted(runtimes))}.")
    if not path.is_file():
        raise UsageError(f"There is no file {path}.")
    runtime = runtimes[path.suffix]
    config = make_config(
        {"runtime": runtime, "precision": "fp32", "threads": threads, "data": "none"},
        source="options",
    )
    context = Context(config, opened, console)
    sentinel, empty = probe_graphs(context)
    with TemporaryDirectory() as folder, console.progress("Measuring") as update:
        measured = measure_network(
            context.device,
            context.runner,
            Graph(path.name, path),
            sentinel=sentinel,
            empty=empty,
            config=MeasureConfig(threads=threads, min_samples=samples, setup=context.setup),
            journal=Journal(Path(folder) / "rounds.jsonl"),
            seed=0,
            starts=STARTS,
            on_progress=measuring_update(update),
        )
    found = measured.statistics(cast(Statistic, statistic))
    return {
        "runtime": f"{runtime} {measured.session.version}",
        "device": context.info.fingerprint,
        "origin": context.origin,
        "threads": threads,
        f"{statistic}_ms": found.value(cast(Statistic, statistic)),
        f"{statistic}_ci95_ms": list(found.ci95_ms) if found.ci95_ms else None,
        "min_ms": found.min_ms,
        "p10_ms": found.p10_ms,
        "median_ms": found.median_ms,
        "p95_ms": found.p95_ms,
        "samples": found.n,
        "starts": measured.session.starts,
        "rejected_rounds": measured.session.rejected,
        "peak_rss_bytes": measured.peak_rss_bytes,
        **_energy(context, meter, Graph(path.name, path), found.median_ms),
    }


def _energy(
    context: Context, meter: Device | None, graph: Graph, inference_ms: float
) -> dict[str, Any]:
    """Nothing where it was not asked for; unknown, with the reason, where it is not told."""
    if meter is None:
        return {}
    energy = Energy(unknown_because="a simulated device uses none")
    if context.origin != "simulated":
        energy = _measured_energy(context, meter, graph, inference_ms)
    if energy.unknown_because:
        context.console.warn(f"The energy is unknown: {energy.unknown_because}.")
    return {
        "energy_per_inference_mj": energy.per_inference_mj,
        "power_busy_mw": energy.busy_mw,
        "power_idle_mw": energy.idle_mw,
    }


def _measured_energy(context: Context, meter: Device, graph: Graph, inference_ms: float) -> Energy:
    with made_ready(context.device, context.setup, context.console.log) as ready:
        return measure_energy(
            context.device,
            meter,
            ready.runner(context.runner),
            graph,
            threads=context.config.threads,
            inference_ms=inference_ms,
        )
