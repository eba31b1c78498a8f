"""Measure a space on a device: every operator, and a few whole networks, into a table.

Files first, rounds after: on this machine nothing else of ours runs while it measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nasdeploy.device_agent.measure import MeasureConfig, measure
from nasdeploy.device_agent.session import Session
from nasdeploy.durable import Journal
from nasdeploy.errors import UsageError
from nasdeploy.export.cache import CachedFile, ExportJob
from nasdeploy.latency_tables.rows import Anchor, Row
from nasdeploy.latency_tables.rows import Statistics as RowStatistics
from nasdeploy.latency_tables.table import LatencyTable, write_table
from nasdeploy.pipeline.anchors import spread_archs
from nasdeploy.pipeline.estimating import estimator_of
from nasdeploy.pipeline.measuring import columns
from nasdeploy.pipeline.run_folder import digest, now
from nasdeploy.pipeline.simulating import tell_networks, tell_operators, tell_probes
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.files import (
    EMPTY,
    NETWORK_PREFIX,
    SENTINEL,
    export_files,
    graphs_of,
    measuring_update,
    network_id,
    network_jobs,
    op_jobs,
    probe_jobs,
)
from nasdeploy.pipeline.stages.pacing import Pacing
from nasdeploy.search.counters import counted_cost
from nasdeploy.search.space import Arch, SearchSpace

ROUNDS_SUFFIX = ".rounds.jsonl"
FITTED = ("median", "p10")


def rounds_path(table: Path) -> Path:
    """The raw samples of a table: the journal of its rounds, beside it."""
    return table.with_suffix(ROUNDS_SUFFIX)


def profile(
    context: Context, space: SearchSpace, table_path: Path, *, pacing: Pacing | None = None
) -> LatencyTable:
    """Measure every operator of `space` and write the table.

    Called again with `resume`, it goes on behind the last complete round.

    Args:
        pacing: Where others are profiled at the same time.
    """
    pacing = pacing or Pacing()
    config, console = context.config, context.console
    journal_path = rounds_path(table_path)
    if journal_path.exists() and not context.resume:
        raise UsageError(
            f"{journal_path} holds the rounds of an earlier profile. Go on with it: add --resume; "
            "or begin anew: add --overwrite, which moves it aside."
        )
    with pacing.exporting(context.device):
        # all that needs torch, which cannot trace in one thread while it computes in another; and
        # a runner may have to be built
        ops = op_jobs(space.all_ops())
        archs = spread_archs(
            space, counted_cost(space, "macs"), config.profile.anchors, seed=config.seed
        )
        tell_networks(context, space, {network_id(arch): arch for arch in archs})
        version = context.runner.check(context.device)
        console.log(
            f"Profiling {space.name} on {context.device.name}: {len(ops)} operators and "
            f"{len(archs)} whole networks, {config.runtime} {version}, {config.precision}, "
            f"{config.threads} thread(s)."
        )
        files = _export(context, ops, space, archs)
    pacing.before_measuring(context.device)
    session = _measure(context, space, files, journal_path)
    table = _table(context, space, session, files, archs)
    write_table(table, table_path)
    estimator = estimator_of(space, table, statistic=FITTED[0])
    console.log(
        f"{session.accepted} rounds accepted, {session.rejected} measured again. "
        f"Estimates: {estimator.describe()}."
    )
    return table


def _export(
    context: Context, ops: Sequence[ExportJob[str]], space: SearchSpace, archs: Sequence[Arch]
) -> dict[str, CachedFile]:
    """Operators with int8 edges, as their neighbours in a network are; networks as they ship."""
    workers = context.config.profile.workers
    files = export_files(
        context,
        [*probe_jobs(), *ops],
        quantised_io=True,
        workers=workers,
        label="Exporting operators",
    )
    networks = export_files(
        context,
        network_jobs(space, archs),
        quantised_io=False,
        workers=workers,
        label="Exporting whole networks",
    )
    return {**files, **networks}


def _measure(
    context: Context, space: SearchSpace, files: Mapping[str, CachedFile], journal: Path
) -> Session:
    profile = context.config.profile
    tell_probes(context)
    tell_operators(context)
    graphs = {graph.id: graph for graph in graphs_of(dict(files))}
    sentinel, empty = graphs.pop(SENTINEL), graphs.pop(EMPTY)
    with context.console.progress("Measuring") as update:
        session = measure(
            context.device,
            context.runner,
            list(graphs.values()),
            sentinel=sentinel,
            empty=empty,
            config=MeasureConfig(
                threads=context.config.threads,
                chain=operators_of_a_network(space),
                min_samples=profile.min_samples,
                min_duration_s=profile.min_duration_s,
                setup=context.setup,
            ),
            journal=Journal(journal),
            seed=context.config.seed,
            alone=[key for key in graphs if key.startswith(NETWORK_PREFIX)],
            on_progress=measuring_update(update),
        )
    session.raise_failures()
    return session


def operators_of_a_network(space: SearchSpace) -> int:
    """How many operators a network of the space has: the mean over a term's choices, summed."""
    return max(
        1,
        round(
            sum(
                term.multiplicity * sum(map(len, term.op_keys)) / len(term.op_keys)
                for term in space.cost_terms()
            )
        ),
    )


def deployment_of(space: SearchSpace) -> dict[str, Any]:
    """What an anchor is tied to, as plain data: everything of the space but its name."""
    return {name: value for name, value in space.config.items() if name != "name"}


def _table(
    context: Context,
    space: SearchSpace,
    session: Session,
    files: Mapping[str, CachedFile],
    archs: Sequence[Arch],
) -> LatencyTable:
    config, info = context.config, context.info
    record = {"started": now(), **session.to_json()}
    session_id = f"{config.runtime}-{config.precision}-{digest(record)[:8]}"
    ops = {
        key: Row(
            **columns(session.statistics(key)),
            graph=file.graph,
            session=session_id,
        )
        for key, file in files.items()
        if key not in (SENTINEL, EMPTY) and not key.startswith(NETWORK_PREFIX)
    }
    anchors = tuple(
        Anchor(
            space=space.name,
            deployment=deployment_of(space),
            arch=arch,
            statistics=RowStatistics(
                **columns(session.statistics(network_id(arch), subtract_empty=False))
            ),
            graph=files[network_id(arch)].graph,
            session=session_id,
        )
        for arch in archs
    )
    operator = files[next(iter(ops))].artifact
    table = LatencyTable(
        device=context.device.name,
        origin=context.origin,
        fingerprint=info.fingerprint,
        condition={} if context.setup.cpus is None else {"cpus": context.setup.cpus},
        device_info={
            "model": info.model,
            "soc": info.soc,
            "os": info.os_version,
            "machine": info.machine,
            "cores": info.cores,
            "ram_bytes": info.ram_bytes,
        },
        runtime=config.runtime,
        runtime_version=session.version,
        precision=config.precision,
        scheme=operator.scheme,
        threads=config.threads,
        target=operator.target,
        created=now(),
        spaces=(dict(space.config),),
        sessions={session_id: record},
        ops=ops,
        anchors=anchors,
    )
    return replace(table, fits=tuple(_fit(space, table, name) for name in FITTED))


def _fit(space: SearchSpace, table: LatencyTable, statistic: str) -> dict[str, Any]:
    estimator = estimator_of(space, table, statistic=statistic)
    return {
        "space": space.name,
        "deployment": deployment_of(space),
        "statistic": statistic,
        "scale": estimator.scale,
        "corrections_ms": dict(estimator.coefficients),
        "leave_one_out_errors_pct": [round(100 * error, 3) for error in estimator.loo_errors],
    }


def set_aside(table: Path) -> None:
    """Move a table and its rounds out of the way; nothing that was measured is deleted."""
    stamp = now().replace(":", "")
    for path in (table, rounds_path(table)):
        if path.exists():
            path.rename(path.with_name(f"{path.name}.{stamp}.old"))
