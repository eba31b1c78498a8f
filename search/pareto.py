"""The trials that no other trial beats in everything."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from nasdeploy import durable
from nasdeploy.errors import UsageError
from nasdeploy.search.space import SearchSpace
from nasdeploy.search.strategy import Trial

Sense = Literal["max", "min"]


def non_dominated(costs: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
    """(n,) whether a row of (n, objectives), all to be lowered, is beaten by no other.

    A row beats another that is nowhere lower and somewhere higher; equal rows beat none of each
    other. Rows are taken in order of their sum, so that each that survives is final and one
    comparison strikes out all that it beats: O(n) of them for every row of the front.

    Raises: `UsageError` for a value that is not finite, which nothing could be compared with.
    """
    rows = np.asarray(costs, dtype=np.float64)
    if not np.isfinite(rows).all():
        raise UsageError("A Pareto front is of finite numbers; leave failed trials out.")
    alive = np.arange(len(rows))[np.argsort(rows.sum(axis=1), kind="stable")]
    front = np.zeros(len(rows), dtype=np.bool_)
    while len(alive):
        best = rows[alive[0]]
        # rounding can give a beaten row the same sum, or one ahead of its better
        beaten = (rows[alive] <= best).all(axis=1) & (rows[alive] < best).any(axis=1)
        if beaten.any():
            alive = np.concatenate([alive[beaten], alive[~beaten]])
            continue
        equal = (rows[alive] == best).all(axis=1)
        front[alive[equal]] = True
        alive = alive[~(rows[alive] >= best).all(axis=1)]
    return front


def pareto_front(trials: Sequence[Trial], objectives: Mapping[str, Sense]) -> list[Trial]:
    """The front of the latest trial of each architecture, ordered by the last objective.

    Trials that failed, or lack one of the objectives, are left out.

    Args:
        objectives: Metric name to what is better: ``{"accuracy": "max", "latency_ms": "min"}``.
    """
    latest = {trial.arch: trial for trial in trials if trial.failure is None}
    kept = [
        trial
        for trial in latest.values()
        if all(math.isfinite(trial.metrics.get(name, math.nan)) for name in objectives)
    ]
    if not kept:
        return []
    signs = np.array([-1.0 if sense == "max" else 1.0 for sense in objectives.values()])
    costs = np.array([[trial.metrics[name] for name in objectives] for trial in kept]) * signs
    mask = non_dominated(costs)
    order = sorted(np.flatnonzero(mask), key=lambda i: (costs[i, -1], kept[i].number))
    return [kept[i] for i in order]


def write_pareto_csv(
    path: Path, trials: Sequence[Trial], space: SearchSpace, objectives: Mapping[str, Sense]
) -> list[Trial]:
    """Write the front: trial, every metric of it, and the label of every choice; returns it."""
    front = pareto_front(trials, objectives)
    metrics = list(objectives)
    metrics += sorted({name for trial in front for name in trial.metrics} - set(metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *metrics, *(decision.label for decision in space.decisions)])
    for trial in front:
        labels = [
            decision.choices[choice]
            for decision, choice in zip(space.decisions, trial.arch, strict=True)
        ]
        values = [trial.metrics.get(name, "") for name in metrics]
        writer.writerow([trial.number, *values, *labels])
    durable.write_text(path, text.getvalue())
    return front
