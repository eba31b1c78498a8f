"""How far are estimates from measurements, on networks that were not fitted?

    python benchmarks/latency_estimate.py --json [--runtime litert] [--precision int8]

Operators, anchors and test networks of `mobile` at 96 px are measured on this machine in the same
interleaved rounds, one thread. The estimator is fitted on the anchors alone and judged on two
samples: random networks, and fast ones, spread evenly over the lowest quarter of the reachable
range, where searches finish. A line for each sample; beside the errors, how far odd and even rounds
are apart, and how far the plain sum of operators is off (median, signed), with the operators' warm
and with their cold runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import get_args

import numpy as np
from scipy.stats import spearmanr

from nasdeploy.device_agent.measure import MeasureConfig, measure
from nasdeploy.device_agent.session import Session
from nasdeploy.device_agent.statistics import STATISTICS, Statistic, Warmth, summarise
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

_CLIMB_STEPS = 400


def fast_archs(space: SearchSpace, estimator: Estimator, n: int, rng: Random) -> list[Arch]:
    """`n` networks whose estimates lie evenly in the lowest quarter of the reachable range.

    Each is reached from the fastest network by random changes that bring it nearer to its target,
    so that it is like what a search ends with and not like a random network.
    """
    reach = estimator.range()
    found: list[Arch] = []
    for number in range(n):
        target = reach.low + (number + 0.5) / n * 0.25 * (reach.high - reach.low)
        arch = reach.lowest
        for _ in range(_CLIMB_STEPS):
            other = space.mutate(arch, rng)
            if abs(estimator(other).ms - target) < abs(estimator(arch).ms - target):
                arch = other
        found.append(arch)
    return found


def compiled(
    space: SearchSpace, session: Session, keys: list[str], statistic: Statistic, warmth: Warmth
) -> CompiledCost:
    values = {
        key: session.statistics(key, statistic, warmth=warmth).value(statistic) for key in keys
    }
    return CompiledCost.compile(space.cost_terms(), values, choices_of(space))


def choices_of(space: SearchSpace) -> list[int]:
    return [len(decision.choices) for decision in space.decisions]


def network_ms(session: Session, arch: Arch, statistic: Statistic) -> float:
    found = session.statistics(network_id(arch), statistic, subtract_empty=False)
    return found.value(statistic)


def unsteadiness_pct(session: Session, archs: list[Arch], statistic: Statistic) -> float:
    """Median over networks of how far odd and even rounds are apart: no estimate is better."""
    apart = []
    for arch in archs:
        runs = session.runs(network_id(arch))
        odd, even = (summarise(runs[first::2], statistic=statistic) for first in (0, 1))
        apart.append(abs(odd.value(statistic) / even.value(statistic) - 1))
    return 100 * float(np.median(apart))


class Benchmark:
    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        config = make_config(
            {"runtime": args.runtime, "precision": args.precision, "data": "none"},
            source="options",
        )
        self.context = Context(config, open_named("local"), Console(quiet=args.quiet))
        self.args = args
        self.folder = folder
        self.space = make_space("mobile", input_shape=(3, args.size, args.size), classes=10)

    def measured(
        self, networks: list[Arch], config: MeasureConfig, name: str
    ) -> tuple[Session, list[str]]:
        """Operators and networks in the same rounds."""
        ops = op_jobs(self.space.all_ops())
        files = export_files(
            self.context, [*probe_jobs(), *ops], quantised_io=True, label="Exporting operators"
        )
        files |= export_files(
            self.context,
            network_jobs(self.space, networks),
            quantised_io=False,
            label="Exporting networks",
        )
        graphs = {graph.id: graph for graph in graphs_of(files)}
        sentinel, empty = graphs.pop(SENTINEL), graphs.pop(EMPTY)
        with self.context.console.progress("Measuring") as update:
            session = measure(
                self.context.device,
                self.context.runner,
                list(graphs.values()),
                sentinel=sentinel,
                empty=empty,
                config=config,
                journal=Journal(self.folder / f"{name}.jsonl"),
                seed=self.args.seed,
                name=name,
                alone=[network_id(arch) for arch in networks],
                on_progress=measuring_update(update),
            )
        session.raise_failures()
        return session, [str(job.key) for job in ops]

    def run(self) -> list[dict[str, object]]:
        args = self.args
        rng = Random(args.seed)
        # a rough look at the operators, only to know which networks are fast
        rough_config = MeasureConfig(
            min_samples=10, min_duration_s=0, chain=operators_of_a_network(self.space)
        )
        rough, keys = self.measured([], rough_config, "rough")
        fast = fast_archs(
            self.space,
            Estimator(compiled(self.space, rough, keys, "min", "warm")),
            args.networks,
            rng,
        )
        random = [self.space.sample(rng) for _ in range(args.networks)]
        anchors = spread_archs(
            self.space, counted_cost(self.space, "macs"), args.anchors, seed=args.seed
        )
        everything = list(dict.fromkeys([*anchors, *random, *fast]))
        config = replace(rough_config, min_samples=args.samples, min_duration_s=args.duration_s)
        session, keys = self.measured(everything, config, "measured")
        samples = {"random": random, "fast": fast}
        return [
            self.judged(session, keys, anchors, sample, archs, statistic)
            for statistic in args.statistic
            for sample, archs in samples.items()
        ]

    def judged(
        self,
        session: Session,
        keys: list[str],
        anchors: list[Arch],
        sample: str,
        archs: list[Arch],
        statistic: Statistic,
    ) -> dict[str, object]:
        fitted = tuple(Measured(arch, network_ms(session, arch, statistic)) for arch in anchors)
        judged = [arch for arch in archs if arch not in anchors]
        measured = np.array([network_ms(session, arch, statistic) for arch in judged])
        estimator, cold = (
            Estimator(
                compiled(self.space, session, keys, statistic, warmth),
                fitted,
                statistic,
                corrections_of(self.space.cost_terms(), choices_of(self.space)),
            )
            for warmth in get_args(Warmth)[::-1]
        )
        estimated = estimator.population(judged)
        errors = 100 * np.abs(estimated / measured - 1)
        plain, plain_cold = (100 * (e.cost(judged) / measured - 1) for e in (estimator, cold))
        return {
            "runtime": self.args.runtime,
            "precision": self.args.precision,
            "sample": sample,
            "statistic": statistic,
            "networks": len(judged),
            "median_error_pct": round(float(np.median(errors)), 3),
            "p95_error_pct": round(float(np.percentile(errors, 95)), 3),
            "spearman": round(float(spearmanr(estimated, measured).statistic), 4),
            "unsteadiness_pct": round(unsteadiness_pct(session, judged, statistic), 3),
            "plain_sum_off_pct": round(float(np.median(plain)), 3),
            "plain_sum_of_cold_rows_off_pct": round(float(np.median(plain_cold)), 3),
            "scale": round(estimator.scale, 4),
            "corrections_ms": dict(estimator.coefficients),
            "latency_ms": [round(float(measured.min()), 3), round(float(measured.max()), 3)],
            "anchors": len(anchors),
            "rounds": session.accepted,
            "rejected_rounds": session.rejected,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON line per sample")
    parser.add_argument("--runtime", default="litert")
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--size", type=int, default=96, help="pixels")
    parser.add_argument("--networks", type=int, default=20, help="of each sample")
    parser.add_argument("--anchors", type=int, default=8)
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--duration-s", type=float, default=40.0)
    parser.add_argument("--statistic", action="append", choices=STATISTICS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep the raw rounds here")
    args = parser.parse_args()
    args.quiet = args.json and not sys.stderr.isatty()
    args.statistic = args.statistic or ["p10"]
    with tempfile.TemporaryDirectory() as temporary:
        for row in Benchmark(args, args.folder or Path(temporary)).run():
            if args.json:
                print(json.dumps(row), flush=True)
            else:
                print(
                    f"{row['runtime']} {row['precision']}, {row['sample']}: median error "
                    f"{row['median_error_pct']} %, 95th percentile {row['p95_error_pct']} %, "
                    f"Spearman {row['spearman']} on {row['networks']} networks"
                )


if __name__ == "__main__":
    main()
