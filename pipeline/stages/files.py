"""The files that are measured: operators, whole networks with random weights, and the probes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nasdeploy.device_agent.job import Graph
from nasdeploy.export.artifact import Target
from nasdeploy.export.cache import CachedFile, ExportJob, export_many, graph_of
from nasdeploy.export.probes import (
    EMPTY_INPUT_SHAPES,
    SENTINEL_INPUT_SHAPES,
    empty_module,
    sentinel_module,
)
from nasdeploy.latency_tables.table import LatencyTable
from nasdeploy.pipeline.config import Precision
from nasdeploy.pipeline.simulating import tell_probes
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.search.space import Arch, Op, SearchSpace

if TYPE_CHECKING:
    from torch import nn

SENTINEL, EMPTY = "sentinel", "empty"
NETWORK_PREFIX = "network "


@dataclass(frozen=True, slots=True)
class Network:
    """Builds an architecture with random weights, in another process too."""

    space_config: dict[str, Any]
    arch: Arch

    def __call__(self) -> nn.Module:
        from nasdeploy.search.spaces import make_space
        from nasdeploy.search.task import Classification

        space = make_space(self.space_config)
        return space.build(self.arch, task=Classification()).eval()


def network_id(arch: Arch) -> str:
    """What a whole network is called among the graphs of a session."""
    return NETWORK_PREFIX + ".".join(map(str, arch))


def probe_jobs() -> list[ExportJob[str]]:
    return [
        ExportJob(SENTINEL, sentinel_module, SENTINEL_INPUT_SHAPES),
        ExportJob(EMPTY, empty_module, EMPTY_INPUT_SHAPES),
    ]


def op_jobs(ops: Iterable[Op]) -> list[ExportJob[str]]:
    return [ExportJob(str(op.key), op.build, op.input_shapes) for op in sorted_ops(ops)]


def sorted_ops(ops: Iterable[Op]) -> list[Op]:
    return sorted(ops, key=lambda op: op.key)


def network_jobs(space: SearchSpace, archs: Iterable[Arch]) -> list[ExportJob[str]]:
    shapes = (space.deployment.input_shape,)
    config = dict(space.config)
    return [ExportJob(network_id(arch), Network(config, arch), shapes) for arch in archs]


def export_files(
    context: Context,
    jobs: list[ExportJob[str]],
    *,
    quantised_io: bool,
    workers: int | None = None,
    label: str,
) -> dict[str, CachedFile]:
    """The file of every job, from the cache of the user or exported now."""
    config = context.config
    with context.console.progress(label) as update:
        return export_many(
            jobs,
            export_cache(context.cache),
            runtime=config.runtime,
            precision=config.precision,
            target=context.info.target,
            quantised_io=quantised_io and config.precision == "int8",
            workers=workers,
            on_progress=lambda done, total, key: update(done, total, key),
        )


def exported_otherwise(space: SearchSpace, table: LatencyTable) -> list[str]:
    """Operators of `space` whose rows are of other files than would be exported now.

    Other versions of a converter, or of nasdeploy, may write faster or slower files, and networks
    are exported by those at hand. Rows that don't say what they are of, such as published ones, are
    taken as they are.
    """
    found = []
    for job in op_jobs(op for op in space.all_ops() if str(op.key) in table.ops):
        measured = table.ops[job.key].graph
        if measured is not None and measured != graph_of(
            job,
            runtime=table.runtime,
            precision=cast(Precision, table.precision),
            target=cast(Target, table.target),
            quantised_io=table.precision == "int8",
        ):
            found.append(job.key)
    return found


def export_cache(cache: Path) -> Path:
    return cache / "exports"


def graphs_of(files: dict[str, CachedFile]) -> list[Graph]:
    return [Graph(key, file.path) for key, file in files.items()]


def measuring_update(update: Callable[..., None]) -> Callable[[int, int, float | None, str], None]:
    """A measuring session's progress on a console's."""
    return lambda done, total, eta_s, text: update(done, total, text, eta_s)


def probe_graphs(context: Context) -> tuple[Graph, Graph]:
    """Sentinel and empty graph, for sessions that measure single networks."""
    if context.probe_precision is not None:
        precision: Precision = context.probe_precision
        config = context.config.model_copy(update={"precision": precision})
        context = replace(context, config=config)
    tell_probes(context)
    # two small graphs: a second process would load the converter for longer
    files = export_files(
        context, probe_jobs(), quantised_io=True, workers=1, label="Exporting probes"
    )
    return Graph(SENTINEL, files[SENTINEL].path), Graph(EMPTY, files[EMPTY].path)
