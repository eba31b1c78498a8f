"""What the benchmarks of searches share: published tables, and the libraries they are held against.

Bounds are known before an evaluation, so a proposal that breaks one costs no library an evaluation:
it is told that it is not feasible, in the library's own way.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.latency_tables.estimate import Estimator
from nasdeploy.search.evaluators.tabular import load_nasbench201
from nasdeploy.search.goal import Goal
from nasdeploy.search.objective import Bounds
from nasdeploy.search.spaces import make_space
from nasdeploy.search.spaces.nasbench201 import EDGES, OPERATORS, from_string
from nasdeploy.search.strategies import STRATEGIES, make_settings
from nasdeploy.search.strategy import Trial

FloatArray = npt.NDArray[np.float64]
CHOICES = (len(OPERATORS),) * len(EDGES)
CELLS = len(OPERATORS) ** len(EDGES)
_GIVE_UP = 200  # proposals in a row that are known or not feasible


@dataclass(frozen=True)
class Cells:
    """Accuracy in percent by (data set, ``valid`` or ``test``), latency in ms by device."""

    accuracy: dict[tuple[str, str], FloatArray]
    latency_ms: dict[str, FloatArray]


def load_cells(accuracy: Path | None, latency: Path | None) -> Cells:
    """The table that ships, or CSV files, ``.gz`` too, of ``arch`` and a column a number."""
    shipped = load_nasbench201()
    splits = [(data, split) for data in ("cifar10", "cifar100") for split in ("valid", "test")]
    order: list[int] | None = None
    if accuracy is None:
        values = {
            (data, split): shipped.accuracy(data, "valid" if split == "valid" else "test")
            for data, split in splits
        }
    else:
        rows = _read(accuracy)
        order = [shipped.index(from_string(row["arch"])) for row in rows]
        short = {"cifar10": "c10", "cifar100": "c100", "valid": "val", "test": "test"}
        values = {
            (data, split): _ordered(
                [float(row[f"{short[data]}_{short[split]}200"]) for row in rows], order
            )
            for data, split in splits
        }
    if latency is None:
        return Cells(values, dict(shipped.latencies_ms))
    rows = _read(latency)
    if "arch" in rows[0]:
        order = [shipped.index(from_string(row["arch"])) for row in rows]
    elif order is None:
        raise SystemExit(
            f"{latency} has no column arch: give the --accuracy that it is aligned to."
        )
    devices = [name for name in rows[0] if name not in ("index", "arch")]
    latencies = {name: _ordered([float(row[name]) for row in rows], order) for name in devices}
    return Cells(values, latencies)


def _read(path: Path) -> list[dict[str, str]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        rows = list(csv.DictReader(file))
    if len(rows) != CELLS:
        raise SystemExit(f"{path} has {len(rows)} cells, not {CELLS}.")
    return rows


def _ordered(values: list[float], order: list[int]) -> FloatArray:
    found = np.full(CELLS, np.nan)
    found[order] = values
    if not np.isfinite(found).all():
        raise SystemExit("A table lacks a cell, or a number of one.")
    return found


def index(arch: Any) -> int:
    """The row of a cell."""
    return int(np.ravel_multi_index(tuple(int(choice) for choice in arch), CHOICES))


def table_cost(values: FloatArray) -> CompiledCost:
    """A cost that is looked up: one term over all decisions."""
    return CompiledCost.of_tables([(tuple(range(len(EDGES))), values.reshape(CHOICES))], CHOICES)


def ours(
    name: str,
    valid: FloatArray,
    latency_ms: FloatArray,
    *,
    bound_ms: float | None,
    seed: int,
    evaluations: int,
    front: bool = False,
    batch: int = 1,
    **settings: Any,
) -> list[int]:
    """The rows that a strategy evaluates, in order."""
    space = make_space("nasbench201")
    estimator = Estimator(table_cost(latency_ms))
    if bound_ms is not None:
        bound_ms = _as_held(estimator, latency_ms, bound_ms)
    goal = Goal("accuracy")
    if front:
        goal = Goal("accuracy", "pareto", {"latency_ms": lambda a: estimator.calibrated(a)})
    own = make_settings(name, settings, evaluator="published").own
    kind = STRATEGIES[name].sampler
    assert kind is not None
    sampler = kind(space, Bounds(lambda: estimator, bound_ms), goal, own, seed)
    rows: list[int] = []
    while len(rows) < evaluations:
        trials = []
        for arch in sampler.ask(min(batch, evaluations - len(rows))):
            row = index(arch)
            metrics = {"accuracy": valid[row] / 100, "latency_ms": estimator.calibrated.of(arch)}
            trials.append(Trial(len(rows), arch, metrics))
            rows.append(row)
        if not trials:
            break
        sampler.tell(trials)
    return rows


def _as_held(estimator: Estimator, latency_ms: FloatArray, bound_ms: float) -> float:
    """The bound that admits to a search what `bound_ms` admits in the table.

    A cost is held as a multiple of a power of two, so that sums are exact; a cell whose latency is
    the bound itself, as that of 1,440 cells is the median on eyeriss, may be held a last bit above.
    """
    held = estimator.calibrated(np.array(list(np.ndindex(CHOICES))))
    within = latency_ms <= bound_ms
    bound = float(held[within].max())
    if not np.array_equal(held <= bound, within):
        raise SystemExit(f"Latencies nearer to each other than 1e-15 lie about {bound_ms} ms.")
    return bound


def optuna_rows(
    sampler: Any,
    valid: FloatArray,
    latency_ms: FloatArray,
    *,
    bound_ms: float | None,
    evaluations: int,
    front: bool = False,
) -> list[int]:
    """The rows that one of optuna's samplers evaluates; a row that was seen costs nothing."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    directions: list[Any] = ["maximize", "minimize"] if front else ["maximize"]
    study = optuna.create_study(sampler=sampler, directions=directions)
    spread: dict[str, Any] = {
        f"edge{edge}": optuna.distributions.CategoricalDistribution(list(range(len(OPERATORS))))
        for edge in range(len(EDGES))
    }
    rows: dict[int, None] = {}
    idle = 0
    while len(rows) < evaluations and idle < _GIVE_UP:
        trial = study.ask(spread)
        row = index([trial.params[f"edge{edge}"] for edge in range(len(EDGES))])
        idle += 1
        if bound_ms is not None and latency_ms[row] > bound_ms:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
            continue
        if row not in rows:
            rows[row] = None
            idle = 0
        values = [valid[row], latency_ms[row]] if front else [valid[row]]
        study.tell(trial, values)
    return list(rows)


def pymoo_rows(
    algorithm: Any,
    valid: FloatArray,
    latency_ms: FloatArray,
    *,
    bound_ms: float | None,
    seed: int,
    evaluations: int,
    front: bool = False,
) -> list[int]:
    """The rows that one of pymoo's algorithms evaluates; what breaks the bound costs nothing."""
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.problem import Problem
    from pymoo.core.termination import NoTermination
    from pymoo.problems.static import StaticProblem

    problem = Problem(
        n_var=len(EDGES), n_obj=2 if front else 1, n_ieq_constr=int(bound_ms is not None),
        xl=0, xu=len(OPERATORS) - 1, vtype=int,
    )  # fmt: skip
    algorithm.setup(problem, termination=NoTermination(), seed=seed, verbose=False)
    rows: dict[int, None] = {}
    idle = 0
    while len(rows) < evaluations and idle < _GIVE_UP:
        population = algorithm.ask()
        found = [index(x) for x in population.get("X")]
        given: dict[str, FloatArray] = {
            "F": np.column_stack([-valid[found], latency_ms[found]][: 2 if front else 1])
        }
        if bound_ms is not None:
            given["G"] = (latency_ms[found] - bound_ms)[:, None]
        before = len(rows)
        for row in found:
            if bound_ms is None or latency_ms[row] <= bound_ms:
                rows[row] = None
        idle = idle + 1 if len(rows) == before else 0
        Evaluator().eval(StaticProblem(problem, **given), population)
        algorithm.tell(infills=population)
    return list(rows)[:evaluations]


def integer_operators() -> dict[str, Any]:
    """How pymoo's own documentation sets its genetic algorithms up for whole numbers."""
    from pymoo.operators.crossover.sbx import SBX
    from pymoo.operators.mutation.pm import PM
    from pymoo.operators.repair.rounding import RoundingRepair
    from pymoo.operators.sampling.rnd import IntegerRandomSampling

    return {
        "sampling": IntegerRandomSampling(),
        "crossover": SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        "mutation": PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        "eliminate_duplicates": True,
    }


def in_processes(work: Callable[[Any], Any], jobs: list[Any], workers: int) -> Iterator[Any]:
    """The results in the order of the jobs."""
    if workers == 1:
        yield from map(work, jobs)
        return
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(work, jobs)
