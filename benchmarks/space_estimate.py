"""How far are estimates from measurements, on networks of a space that were not fitted?

    python benchmarks/space_estimate.py --space darts --runtime litert --precision fp32 --json

Operators, anchors and 12 random networks of a space, at a small shape, are measured on this machine
in the same interleaved rounds, one thread, as a profile measures them. The estimator is fitted on
the anchors alone. One line for each statistic.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from nasdeploy.device_agent.measure import MeasureConfig, measure
from nasdeploy.device_agent.session import Session
from nasdeploy.device_agent.statistics import STATISTICS, Statistic
from nasdeploy.durable import Journal
from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.latency_tables.estimate import Estimator, Measured, corrections_of
from nasdeploy.pipeline.anchors import spread_archs
from nasdeploy.pipeline.config import make_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.opening import open_named
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.files import (
    EMPTY,
    SENTINEL,
    export_files,
    graphs_of,
    measuring_update,
    network_id,
    network_jobs,
    op_jobs,
    probe_jobs,
)
from nasdeploy.pipeline.stages.profile import operators_of_a_network
from nasdeploy.search.counters import counted_cost
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.spaces import make_space

# small enough to profile within minutes, large enough that an operator outlasts its call
SHAPES: dict[str, dict[str, Any]] = {
    "darts": {"channels": 16, "layers": 5},
    "enas-macro": {"channels": 24},
    "enas-micro": {"channels": 16, "layers": 5},
    "mobile-elastic": {
        "input_shape": [3, 96, 96],
        "resolutions": [64, 96],
        "kernels": [3, 5],
        "expansions": [3, 6],
        "depths": [1, 2],
        "stages": [[24, 2, 2], [40, 2, 2], [80, 2, 2]],
    },
    "nasbench201": {"cells": 3},
    "pnas": {"channels": 16, "layers": 5},
}


def chosen_archs(space: SearchSpace, args: argparse.Namespace) -> tuple[list[Arch], list[Arch]]:
    """Anchors, and random networks that are none of them."""
    anchors = spread_archs(space, counted_cost(space, "macs"), args.anchors, seed=args.seed)
    rng, judged = Random(args.seed), list[Arch]()
    while len(judged) < args.networks:
        arch = space.sample(rng)
        if arch not in anchors and arch not in judged:
            judged.append(arch)
    return anchors, judged


def measured(
    space: SearchSpace, archs: list[Arch], args: argparse.Namespace, folder: Path
) -> tuple[Session, list[str]]:
    """Operators and networks in the same rounds."""
    config = make_config(
        {"runtime": args.runtime, "precision": args.precision, "data": "none"}, source="options"
    )
    context = Context(config, open_named("local"), Console(quiet=args.quiet))
    ops = op_jobs(space.all_ops())
    files = export_files(
        context, [*probe_jobs(), *ops], quantised_io=True, label="Exporting operators"
    )
    files |= export_files(
        context, network_jobs(space, archs), quantised_io=False, label="Exporting networks"
    )
    graphs = {graph.id: graph for graph in graphs_of(files)}
    sentinel, empty = graphs.pop(SENTINEL), graphs.pop(EMPTY)
    with context.console.progress("Measuring") as update:
        session = measure(
            context.device,
            context.runner,
            list(graphs.values()),
            sentinel=sentinel,
            empty=empty,
            config=MeasureConfig(
                chain=operators_of_a_network(space),
                min_samples=args.samples,
                min_duration_s=args.duration_s,
            ),
            journal=Journal(folder / f"{space.name}-{args.runtime}-{args.precision}.jsonl"),
            seed=args.seed,
            name=space.name,
            alone=[network_id(arch) for arch in archs],
            on_progress=measuring_update(update),
        )
    session.raise_failures()
    return session, [str(job.key) for job in ops]


def judged_row(
    space: SearchSpace,
    session: Session,
    keys: list[str],
    anchors: list[Arch],
    judged: list[Arch],
    statistic: Statistic,
) -> dict[str, Any]:
    def network_ms(arch: Arch) -> float:
        found = session.statistics(network_id(arch), statistic, subtract_empty=False)
        return found.value(statistic)

    values = {key: session.statistics(key, statistic).value(statistic) for key in keys}
    sizes = [len(decision.choices) for decision in space.decisions]
    cost = CompiledCost.compile(space.cost_terms(), values, sizes)
    fitted = tuple(Measured(arch, network_ms(arch)) for arch in anchors)
    chosen = Estimator(cost, fitted, statistic, corrections_of(space.cost_terms(), sizes))
    truth = np.array([network_ms(arch) for arch in judged])
    estimated = chosen.population(judged)
    errors = 100 * np.abs(estimated / truth - 1)
    plain = 100 * (chosen.cost(judged) / truth - 1)
    return {
        "statistic": statistic,
        "networks": len(judged),
        "median_error_pct": round(float(np.median(errors)), 3),
        "max_error_pct": round(float(errors.max()), 3),
        "spearman": round(float(spearmanr(estimated, truth).statistic), 4),
        "plain_sum_off_pct": round(float(np.median(plain)), 3),
        "scale": round(chosen.scale, 4),
        "corrections_ms": dict(chosen.coefficients),
        "latency_ms": [round(float(truth.min()), 3), round(float(truth.max()), 3)],
        "anchors": len(anchors),
        "operators": len(keys),
        "rounds": session.accepted,
        "rejected_rounds": session.rejected,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--space", required=True, choices=sorted(SHAPES))
    parser.add_argument("--runtime", default="litert")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--json", action="store_true", help="one JSON line per statistic")
    parser.add_argument("--networks", type=int, default=12, help="that are not fitted")
    parser.add_argument("--anchors", type=int, default=10)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--duration-s", type=float, default=30.0)
    parser.add_argument("--statistic", action="append", choices=STATISTICS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the raw rounds here")
    args = parser.parse_args()
    args.quiet = args.json and not sys.stderr.isatty()
    shape: dict[str, Any] = {"input_shape": [3, 32, 32], "classes": 10, **SHAPES[args.space]}
    space = make_space(args.space, **shape)
    anchors, judged = chosen_archs(space, args)
    with tempfile.TemporaryDirectory() as temporary:
        session, keys = measured(space, [*anchors, *judged], args, args.folder or Path(temporary))
    setting = {"space": dict(space.config), "runtime": args.runtime, "precision": args.precision}
    for statistic in args.statistic or ["p10", "median"]:
        row = {**setting, **judged_row(space, session, keys, anchors, judged, statistic)}
        if args.json:
            print(json.dumps(row), flush=True)
        else:
            print(
                f"{args.space}, {args.runtime} {args.precision}, {statistic}: median error "
                f"{row['median_error_pct']} %, at most {row['max_error_pct']} %, Spearman "
                f"{row['spearman']} on {row['networks']} networks"
            )


if __name__ == "__main__":
    main()
