"""What exporting a space's operators costs: the first time, in one process, and from the cache.

    python benchmarks/profile_speed.py --json [--runtime litert] [--precision int8] [--ops 75]

The operators are those of ``mobile`` at 96 pixels, the empty graph and the sentinel. Wall times
mean something on an idle machine only; CPU seconds nearly anywhere.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nasdeploy.device_agent.devices import open_device
from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.measure import MeasureConfig
from nasdeploy.device_agent.measure import measure as measure_graphs
from nasdeploy.device_agent.runners.runner import open_runner
from nasdeploy.device_agent.session import Session
from nasdeploy.durable import Journal
from nasdeploy.export.cache import CachedFile, ExportJob, export_many
from nasdeploy.export.exporters import EXPORTERS
from nasdeploy.export.probes import (
    EMPTY_INPUT_SHAPES,
    SENTINEL_INPUT_SHAPES,
    empty_module,
    sentinel_module,
)
from nasdeploy.export.workers import end_idle
from nasdeploy.search.spaces import make_space

T = TypeVar("T")


def timed(function: Callable[[], T]) -> tuple[T, float, float]:
    """(result, wall seconds, CPU seconds of this process and its children)."""
    wall, cpu = time.perf_counter(), _cpu_s()
    result = function()
    return result, time.perf_counter() - wall, _cpu_s() - cpu


def _cpu_s() -> float:
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    usages = [resource.getrusage(one) for one in who]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def jobs_of(count: int) -> list[ExportJob[str]]:
    space = make_space("mobile", input_shape=(3, 96, 96), classes=10)
    ops = sorted(space.all_ops(), key=lambda op: op.key)
    jobs = [
        ExportJob("empty", empty_module, EMPTY_INPUT_SHAPES),
        ExportJob("sentinel", sentinel_module, SENTINEL_INPUT_SHAPES),
        *(ExportJob(str(op.key), op.build, op.input_shapes) for op in ops),
    ]
    return jobs[:count]


def measure(jobs: list[ExportJob[str]], runtime: str, precision: Any) -> dict[str, Any]:
    def export(cache: Path, workers: int | None) -> Callable[[], dict[str, CachedFile]]:
        def exported() -> dict[str, CachedFile]:
            files = export_many(
                jobs,
                cache,
                runtime=runtime,
                precision=precision,
                target="x86-64",
                quantised_io=precision == "int8",
                workers=workers,
                on_progress=lambda done, total, key: print(
                    f"{done}/{total} {key}", file=sys.stderr
                ),
            )
            end_idle()  # their time counts when they have ended, and the next starts as this did
            return files

        return exported

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files, wall_s, cpu_s = timed(export(folder / "parallel", None))
        _, cached_wall_s, cached_cpu_s = timed(export(folder / "parallel", None))
        _, single_wall_s, single_cpu_s = timed(export(folder / "single", 1))
        session, measuring_s, _ = timed(lambda: rounds(files, runtime, folder / "rounds.jsonl"))
        return {
            "runtime": runtime,
            "precision": precision,
            "ops": len(jobs),
            "files": len(list((folder / "parallel").glob("*.json"))),
            "first_wall_s": round(wall_s, 2),
            "first_cpu_s": round(cpu_s, 2),
            "single_wall_s": round(single_wall_s, 2),
            "single_cpu_s": round(single_cpu_s, 2),
            "speedup": round(single_wall_s / wall_s, 3),
            "cached_wall_s": round(cached_wall_s, 4),
            "cached_cpu_s": round(cached_cpu_s, 4),
            "cached_s_per_op": round(cached_wall_s / len(jobs), 5),
            "measuring_wall_s": round(measuring_s, 2),
            "rounds": session.accepted,
            "rejected_rounds": session.rejected,
        }


def rounds(files: dict[str, CachedFile], runtime: str, journal: Path) -> Session:
    """The measuring of a profile with its default settings, without anchors."""
    graphs = {key: Graph(key, file.path) for key, file in files.items()}
    sentinel, empty = graphs.pop("sentinel"), graphs.pop("empty")
    return measure_graphs(
        open_device("local"),
        open_runner(runtime),
        list(graphs.values()),
        sentinel=sentinel,
        empty=empty,
        config=MeasureConfig(),
        journal=Journal(journal),
        seed=0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runtime", choices=sorted(EXPORTERS), default="litert")
    parser.add_argument("--precision", choices=["fp32", "int8"], default="int8")
    parser.add_argument("--ops", type=int, default=75, help="how many operators at most")
    parser.add_argument("--json", action="store_true", help="one JSON line on stdout")
    arguments = parser.parse_args()
    result = measure(jobs_of(arguments.ops), arguments.runtime, arguments.precision)
    if arguments.json:
        print(json.dumps(result))
    else:
        print("\n".join(f"{name:16} {value}" for name, value in result.items()))


if __name__ == "__main__":
    main()
