"""Searches held against each other: how good, how sure, how dear, how quick, how diverse.

Runs that differ in nothing but their seed are one strategy's; strategies are compared on one
problem only. Whether two differ is the Mann-Whitney U test on the best of each seed (Mann and
Whitney, Annals of Mathematical Statistics 18, 1947), exact and two-sided: with fewer than four
seeds of each it cannot say so at 5 %.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nasdeploy.errors import UsageError
from nasdeploy.pipeline.config import RunConfig, read_config
from nasdeploy.pipeline.run_folder import RUNS, RunFolder
from nasdeploy.search.hypervolume import hypervolume
from nasdeploy.search.loop import read_history
from nasdeploy.search.strategy import Trial

METRIC = "accuracy"
_NEAR = 0.99  # of the best of a run: how soon it was reached is its convergence
_MOST_PAIRS = 2000


@dataclass(frozen=True)
class SearchRun:
    """A finished search.

    Attributes:
        trials: Those that succeeded and hold the bound, in order.
        failed: How many did not succeed.
        search_s: Seconds that it took, or None for a run that did not record them.
    """

    name: str
    config: RunConfig
    trials: Sequence[Trial]
    failed: int
    search_s: float | None

    @property
    def strategy(self) -> str:
        """Its name, with the settings that were given: other settings are another strategy."""
        search = self.config.search
        return " ".join([search.strategy, *([_short(search.settings)] if search.settings else [])])

    @property
    def problem(self) -> dict[str, Any]:
        """What must be the same in all runs that are compared."""
        config = self.config
        return {
            "space": config.space,
            "data": config.data,
            "table": config.table,
            "bounds": config.bounds.model_dump(),
            "evaluator": config.search.evaluator,
        }


def _short(settings: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in sorted(settings.items()))


def open_search(run: str) -> SearchRun:
    """A run's name or folder; `UsageError` if it holds no search."""
    path = Path(run) if Path(run).is_dir() else RUNS / run
    folder = RunFolder(path)
    winner = folder.winner / "arch.json"
    if not (folder.config_path.is_file() and folder.history_path.is_file() and winner.is_file()):
        raise UsageError(f"{path} holds no finished search. Search: nasdeploy search --name {run}")
    found = json.loads(winner.read_text())
    if found["table"] is None:
        raise UsageError(
            f"{path} was searched without a table: there is no latency to compare it by. Search "
            "with one: --table pixel1."
        )
    bound_ms = found["bound_ms"]
    history = read_history(folder.history_path)
    good = [trial for trial in history if trial.failure is None and METRIC in trial.metrics]
    within = [
        trial for trial in good if bound_ms is None or trial.metrics["latency_ms"] <= bound_ms
    ]
    if not within:
        raise UsageError(f"{path} has no trial within its bounds: there is nothing to compare.")
    failed = sum(trial.failure is not None for trial in history)
    seconds = folder.manifest.get("search_s")
    return SearchRun(path.name, read_config(folder.config_path), within, failed, seconds)


def compare(runs: Sequence[str]) -> dict[str, Any]:
    """Figures by strategy, and a test for each pair.

    Raises: `UsageError` for fewer than two runs, or runs of unlike problems.
    """
    opened = [open_search(run) for run in dict.fromkeys(runs)]
    if len(opened) < 2:
        raise UsageError("To compare, name two runs or more: nasdeploy compare RUN RUN.")
    for run in opened[1:]:
        for key, value in opened[0].problem.items():
            if run.problem[key] != value:
                raise UsageError(
                    f"{run.name} and {opened[0].name} differ in their {key}: "
                    f"{run.problem[key]} and {value}. Compare searches of one problem."
                )
    low, high = _span(opened)
    groups: dict[str, list[SearchRun]] = {}
    for run in opened:
        groups.setdefault(run.strategy, []).append(run)
    return {
        "metric": METRIC,
        "strategies": {name: _figures(group, low, high) for name, group in groups.items()},
        "tests": [
            _test(one, groups[one], other, groups[other])
            for one, other in itertools.combinations(groups, 2)
        ],
    }


def _costs(trials: Sequence[Trial]) -> np.ndarray:
    return np.array([[-t.metrics[METRIC], t.metrics["latency_ms"]] for t in trials])


def _span(runs: Sequence[SearchRun]) -> tuple[np.ndarray, np.ndarray]:
    """The best and the worst of each objective in all runs: 0 and 1 of the hypervolume."""
    every = np.vstack([_costs(run.trials) for run in runs])
    low, high = every.min(axis=0), every.max(axis=0)
    return low, np.where(high > low, high, low + 1.0)


def best_of(run: SearchRun) -> float:
    return max(trial.metrics[METRIC] for trial in run.trials)


def _figures(runs: Sequence[SearchRun], low: np.ndarray, high: np.ndarray) -> dict[str, Any]:
    best = [best_of(run) for run in runs]
    volumes = [
        hypervolume((_costs(run.trials) - low) / (high - low), np.full(2, 1.1)) for run in runs
    ]
    seconds = [run.search_s for run in runs if run.search_s is not None]
    return {
        "runs": [run.name for run in runs],
        "seeds": [run.config.seed for run in runs],
        "best": best,
        "best_mean": float(np.mean(best)),
        "best_deviation": float(np.std(best, ddof=1)) if len(best) > 1 else None,
        "hypervolume_mean": float(np.mean(volumes)),
        "trials_mean": float(np.mean([len(run.trials) + run.failed for run in runs])),
        "failed": sum(run.failed for run in runs),
        "search_s_mean": float(np.mean(seconds)) if seconds else None,
        "trials_to_99_percent_mean": float(np.mean([_converged(run) for run in runs])),
        "diversity_mean": float(np.mean([_diversity(run) for run in runs])),
    }


def _converged(run: SearchRun) -> int:
    """Trials until 99 % of the run's own best was reached."""
    goal = _NEAR * best_of(run)
    return next(n for n, trial in enumerate(run.trials, 1) if trial.metrics[METRIC] >= goal)


def _diversity(run: SearchRun) -> float:
    """Mean share of decisions in which two of the tried architectures differ."""
    archs = np.array([trial.arch for trial in run.trials])
    if len(archs) < 2:
        return 0.0
    pairs = np.random.default_rng(0).integers(len(archs), size=(_MOST_PAIRS, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    return float((archs[pairs[:, 0]] != archs[pairs[:, 1]]).mean())


def _test(
    one: str, first: Sequence[SearchRun], other: str, second: Sequence[SearchRun]
) -> dict[str, Any]:
    from scipy.stats import mannwhitneyu

    a, b = [best_of(run) for run in first], [best_of(run) for run in second]
    p = float(mannwhitneyu(a, b, alternative="two-sided").pvalue)
    ahead = one if np.mean(a) >= np.mean(b) else other
    return {
        "between": [one, other],
        "ahead": ahead,
        "p": p,
        "significant": p < 0.05,
        "enough_seeds": len(a) >= 4 and len(b) >= 4,
    }
