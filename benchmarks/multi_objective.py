"""Accuracy against latency: hypervolume beside pymoo's and optuna's NSGA-II, and speed.

    python benchmarks/multi_objective.py --json [--accuracy FILE --latency FILE] [--workers N]

The front: NAS-Bench-201, CIFAR-10 validation accuracy against the latency on a pixel3, after 100
and 300 evaluations. Hypervolume counts what is more accurate than the median cell and not slower
than the slowest of the whole table's front, as a share of what that front has. (Down to the cells
that cost nothing and guess, all methods would lie between 0.97 and 0.99.)

The speed: evaluations a second of NSGA-II on `mobile` (21 decisions of up to 7) with the shipped
Pixel 1 table and a made-up accuracy as objectives, both looked up, with the same population. Ours
goes on until its hypervolume is at least what pymoo's ended with; ``speed_ratio`` is pymoo's
processor time to ours, and `evaluations_per_s` is that of either.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from peers import Cells, in_processes, integer_operators, load_cells, optuna_rows, ours, pymoo_rows

from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.latency_tables.table import find_table, read_table
from nasdeploy.search.hypervolume import hypervolume
from nasdeploy.search.pareto import non_dominated
from nasdeploy.search.spaces import make_space
from nasdeploy.search.strategies.nsga2 import Population

FloatArray = npt.NDArray[np.float64]
OURS = ("bayesian", "predictor", "nsga2")
PEERS = ("pymoo-nsga2", "optuna-nsga2")
COUNTS = (100, 300)
SEEDS = 10
POPULATION, GENERATIONS, ROUNDS = 100, 100, 5
BETWEEN_LOOKS, MOST_GENERATIONS = 10, 1000


@dataclass(frozen=True)
class Job:
    method: str
    seed: int
    accuracy: Path | None
    latency: Path | None


cells = cache(load_cells)


def columns(job: Job) -> tuple[FloatArray, FloatArray]:
    table: Cells = cells(job.accuracy, job.latency)
    return table.accuracy["cifar10", "valid"], table.latency_ms["pixel3"]


def rows_of(job: Job) -> list[int]:
    """The rows that a method evaluates, in order."""
    valid, latency_ms = columns(job)
    common: dict[str, Any] = {"bound_ms": None, "evaluations": COUNTS[-1], "front": True}
    if job.method == "optuna-nsga2":
        from optuna.samplers import NSGAIISampler

        sampler = NSGAIISampler(seed=job.seed, population_size=20)
        return optuna_rows(sampler, valid, latency_ms, **common)
    if job.method == "pymoo-nsga2":
        from pymoo.algorithms.moo.nsga2 import NSGA2

        algorithm = NSGA2(pop_size=20, **integer_operators())
        return pymoo_rows(algorithm, valid, latency_ms, seed=job.seed, **common)
    return ours(job.method, valid, latency_ms, seed=job.seed, **common)


def covered(job: Job, rows: list[int]) -> dict[int, float]:
    """Share of the hypervolume of the table's front, after each count of evaluations."""
    valid, latency_ms = columns(job)
    costs = np.column_stack([-valid, latency_ms])
    front = costs[non_dominated(costs)]
    reference = np.array([-np.median(valid), front[:, 1].max()])
    whole = hypervolume(costs, reference)
    return {count: hypervolume(costs[rows[:count]], reference) / whole for count in COUNTS}


def fronts(jobs: list[Job], workers: int) -> dict[str, Any]:
    """Means over the seeds, and the ratio to the better of the peers."""
    results = list(zip(jobs, in_processes(rows_of, jobs, workers), strict=True))
    mean: dict[str, dict[int, float]] = {}
    for method in dict.fromkeys(job.method for job in jobs):
        shares = [covered(job, rows) for job, rows in results if job.method == method]
        mean[method] = {
            count: round(float(np.mean([share[count] for share in shares])), 4) for count in COUNTS
        }
    figures: dict[str, Any] = {"hypervolume": mean}
    for count in COUNTS:
        best = max(OURS, key=lambda name: mean[name][count])
        theirs = max(mean[name][count] for name in PEERS)
        figures[f"best_of_ours_at_{count}"] = best
        figures[f"hypervolume_ratio_at_{count}"] = round(mean[best][count] / theirs, 4)
    return figures


class Mobile:
    """Two objectives of `mobile` that are looked up, both lowered."""

    def __init__(self) -> None:
        space = make_space("mobile", input_shape=(3, 224, 224), classes=1000)
        table = read_table(find_table("pixel1"))
        self.choices = [len(decision.choices) for decision in space.decisions]
        self.latency = CompiledCost.compile(
            space.cost_terms(), table.values(table.default_statistic), self.choices
        )
        rng = np.random.default_rng(0)
        # what makes a block slower makes it better, on the whole; neighbours depend on each other
        tables: list[tuple[tuple[int, ...], FloatArray]] = [
            ((i,), -np.sort(rng.random(count))) for i, count in enumerate(self.choices)
        ]
        pairs = zip(self.choices, self.choices[1:], strict=False)
        tables += [((i, i + 1), 0.3 * rng.random(pair)) for i, pair in enumerate(pairs)]
        self.error = CompiledCost.of_tables(tables, self.choices)
        ends = [cost.range() for cost in (self.error, self.latency)]
        self.low = np.array([end.low for end in ends])
        self.span = np.array([end.high for end in ends]) - self.low

    def __call__(self, archs: npt.NDArray[np.integer]) -> FloatArray:
        return np.column_stack([self.error(archs), self.latency(archs)])

    def ours(self, seed: int, target: float) -> tuple[float, int, float]:
        """Processor seconds, evaluations and hypervolume when the target was reached."""
        rng = np.random.default_rng(seed)
        population = Population(self.choices, POPULATION, rng, mutations=1.0)
        archs = rng.integers(0, self.choices, (POPULATION, len(self.choices))).astype(np.int16)
        seconds, evaluations, volume = 0.0, 0, 0.0
        while volume < target and evaluations < MOST_GENERATIONS * POPULATION:
            began = time.process_time()
            for _ in range(BETWEEN_LOOKS):
                population.survive(archs, self(archs))
                archs = population.children(POPULATION)
                evaluations += POPULATION
            seconds += time.process_time() - began
            volume = self.volume(population.costs)
        return seconds, evaluations, volume

    def volume(self, costs: FloatArray) -> float:
        return hypervolume((costs - self.low) / self.span, np.full(2, 1.1))

    def theirs(self, seed: int) -> FloatArray:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.optimize import minimize

        objectives = self

        class Tables(Problem):  # type: ignore[misc]
            def _evaluate(self, x: Any, out: dict[str, Any], *args: Any, **kwargs: Any) -> None:
                del args, kwargs
                out["F"] = objectives(x.astype(np.int16))

        problem = Tables(
            n_var=len(self.choices), n_obj=2, xl=0, xu=np.array(self.choices) - 1, vtype=int
        )
        algorithm = NSGA2(pop_size=POPULATION, **integer_operators())
        result = minimize(problem, algorithm, ("n_gen", GENERATIONS), seed=seed, verbose=False)
        costs: FloatArray = result.pop.get("F")
        return costs


def speed() -> dict[str, Any]:
    """Processor seconds of either, in alternation; sums over the rounds."""
    mobile = Mobile()
    theirs_s, ours_s, evaluations, ratios = 0.0, 0.0, 0, []
    for seed in range(ROUNDS):
        began = time.process_time()
        costs = mobile.theirs(seed)
        theirs_s += time.process_time() - began
        target = mobile.volume(costs)
        seconds, tried, volume = mobile.ours(seed, target)
        ours_s += seconds
        evaluations += tried
        ratios.append(volume / target)
    per_run = POPULATION * GENERATIONS
    return {
        "evaluations_pymoo": per_run,
        "evaluations_ours": evaluations // ROUNDS,
        "evaluations_per_s": round(evaluations / ours_s),
        "evaluations_per_s_pymoo": round(per_run * ROUNDS / theirs_s),
        "evaluations_per_s_ratio": round(evaluations / ours_s / (per_run * ROUNDS / theirs_s), 2),
        "speed_ratio": round(theirs_s / ours_s, 2),
        "lowest_hypervolume_ratio": round(min(ratios), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--accuracy", type=Path, help="another table of the same columns, CSV")
    parser.add_argument("--latency", type=Path, help="the same cells' latencies, CSV")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    jobs = [
        Job(method, seed, asked.accuracy, asked.latency)
        for method in (*OURS, *PEERS)
        for seed in range(asked.seeds)
    ]
    figures = {"seeds": asked.seeds, **fronts(jobs, asked.workers), "mobile": speed()}
    print(json.dumps(figures, indent=None if asked.json else 2))


if __name__ == "__main__":
    main()
