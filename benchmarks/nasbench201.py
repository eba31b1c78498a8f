"""How near the strategies come to the best of NAS-Bench-201, beside optuna's TPE and pymoo's GA.

    python benchmarks/nasbench201.py --json [--accuracy FILE --latency FILE] [--workers N]
                                            [--devices NAME ...] [--quantile SHARE]

Every proposal sees validation accuracy only. Of what was evaluated, the cell that is best by
validation counts; the regret is what its test accuracy lacks, in points, to that of the best cell.
The best cell is the one that is best by validation: no search that sees validation only can choose
another. Without a bound that cell has the best test accuracy too. Within a bound it may not have;
then a choice that is luckier counts as no regret, not as a gain, and ``regret_to_best_test`` says
what is lacking to the best test accuracy of all admissible cells. A bound is the median of the
device's latencies, or another quantile.
"""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from peers import Cells, in_processes, integer_operators, load_cells, optuna_rows, ours, pymoo_rows

OURS = ("bayesian", "predictor", "pnas", "local", "evolution", "nsga2")
PEERS = ("optuna-tpe", "pymoo-ga")
DATASETS = ("cifar10", "cifar100")
COUNTS = (25, 50, 100, 200)
SEEDS, SEEDS_BEYOND = 20, 5
DEVICES = ("pixel3", "eyeriss", "silver_4114")


@dataclass(frozen=True)
class Job:
    method: str
    dataset: str
    device: str | None
    seed: int
    evaluations: int
    accuracy: Path | None
    latency: Path | None
    quantile: float = 0.5

    def bound_ms(self, latency_ms: npt.NDArray[np.float64]) -> float:
        return float(np.quantile(latency_ms, self.quantile))


cells = cache(load_cells)


def rows_of(job: Job) -> list[int]:
    """The rows that a method evaluates, in order."""
    table: Cells = cells(job.accuracy, job.latency)
    valid = table.accuracy[job.dataset, "valid"]
    latency_ms = table.latency_ms[job.device or next(iter(table.latency_ms))]
    bound_ms = None if job.device is None else job.bound_ms(latency_ms)
    common: dict[str, Any] = {"bound_ms": bound_ms, "evaluations": job.evaluations}
    if job.method == "optuna-tpe":
        from optuna.samplers import TPESampler

        return optuna_rows(TPESampler(seed=job.seed), valid, latency_ms, **common)
    if job.method == "pymoo-ga":
        from pymoo.algorithms.soo.nonconvex.ga import GA

        algorithm = GA(pop_size=20, **integer_operators())
        return pymoo_rows(algorithm, valid, latency_ms, seed=job.seed, **common)
    return ours(job.method, valid, latency_ms, seed=job.seed, **common)


def regrets(job: Job, rows: list[int]) -> dict[str, Any]:
    """By number of evaluations; and how many rows broke the bound."""
    table: Cells = cells(job.accuracy, job.latency)
    valid, test = (table.accuracy[job.dataset, split] for split in ("valid", "test"))
    admissible = np.ones(len(valid), np.bool_)
    if job.device is not None:
        latency_ms = table.latency_ms[job.device]
        admissible = latency_ms <= job.bound_ms(latency_ms)
    best = test[np.flatnonzero(admissible)[valid[admissible].argmax()]]
    found: dict[str, Any] = {"violations": int((~admissible[rows]).sum()), "regret": {}, "test": {}}
    for count in (count for count in COUNTS if count <= job.evaluations):
        tried = np.array(rows[:count])
        chosen = float(test[tried[valid[tried].argmax()]])
        found["regret"][count] = max(0.0, float(best) - chosen)
        found["test"][count] = float(test[admissible].max()) - chosen
    return found


def summary(results: list[tuple[Job, dict[str, Any]]]) -> dict[str, Any]:
    """Means over the seeds, and how ours compare with the peers."""
    figures: dict[str, Any] = {}
    for dataset in DATASETS:
        of_data = [(job, found) for job, found in results if job.dataset == dataset]
        methods: dict[str, Any] = {}
        for method in dict.fromkeys(job.method for job, _ in of_data):
            runs = [found for job, found in of_data if job.method == method]
            mean: dict[str, Any] = {"violations": sum(run["violations"] for run in runs)}
            for name, key in (("regret", "regret"), ("regret_to_best_test", "test")):
                mean[name] = {
                    count: round(
                        float(np.mean([run[key][count] for run in runs if count in run[key]])), 4
                    )
                    for count in COUNTS
                    if any(count in run[key] for run in runs)
                }
            methods[method] = mean
        figures[dataset] = methods
    best_50 = min(PEERS, key=lambda name: _mean(figures, name, 50))
    theirs = _mean(figures, best_50, 50)
    own = [name for name in OURS if name in figures[DATASETS[0]]]
    first = min(own, key=lambda name: (_mean(figures, name, 50), _mean(figures, name, 100)))
    return {
        "best_of_ours": first,
        "best_of_theirs": best_50,
        "regret_ratio_at_50": _ratio(_mean(figures, first, 50), theirs),
        "regret_ratio_at_50_by_dataset": {
            data: _ratio(
                figures[data][first]["regret"][50],
                min(figures[data][name]["regret"][50] for name in PEERS),
            )
            for data in DATASETS
        },
        "regret_at_100": round(min(_mean(figures, name, 100) for name in own), 4),
        "violations": sum(figures[data][name]["violations"] for data in DATASETS for name in own),
        **figures,
    }


def _ratio(ours: float, theirs: float) -> float | None:
    """None where theirs is nothing."""
    return round(ours / theirs, 4) if theirs else None


def _mean(figures: dict[str, Any], method: str, count: int) -> float:
    return float(np.mean([figures[data][method]["regret"][count] for data in DATASETS]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument("--accuracy", type=Path, help="another table of the same columns, CSV")
    parser.add_argument("--latency", type=Path, help="the same cells' latencies, CSV")
    parser.add_argument("--devices", nargs="*", default=list(DEVICES), help="bounds are theirs")
    parser.add_argument("--quantile", type=float, default=0.5, help="of latencies, is the bound")
    parser.add_argument("--methods", nargs="*", default=[*OURS, *PEERS, "random"])
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    if not 0 < asked.quantile < 1:
        parser.error(f"--quantile is {asked.quantile}: it must lie between 0 and 1")
    known = load_cells(asked.accuracy, asked.latency).latency_ms
    for device in asked.devices:
        if device not in known:
            parser.error(f"{device} is no device of the table: {', '.join(known)}")

    jobs = [
        Job(method, dataset, device, seed, 200 if seed < SEEDS_BEYOND else 100, asked.accuracy,
            asked.latency, asked.quantile)
        for device in (None, *asked.devices)
        for dataset in DATASETS
        for method in asked.methods
        for seed in range(asked.seeds)
    ]  # fmt: skip
    results = list(zip(jobs, in_processes(rows_of, jobs, asked.workers), strict=True))
    scored = [(job, regrets(job, rows)) for job, rows in results]
    figures: dict[str, Any] = {"seeds": asked.seeds, "seeds_at_200": min(asked.seeds, SEEDS_BEYOND)}
    for device in (None, *asked.devices):
        of_device = [(job, found) for job, found in scored if job.device == device]
        if device is None:
            figures |= summary(of_device)
        else:
            figures.setdefault("bounded", {})[device] = summary(of_device)
    print(json.dumps(figures, indent=None if asked.json else 2))


if __name__ == "__main__":
    main()
