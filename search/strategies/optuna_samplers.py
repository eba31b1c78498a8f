"""Optuna's samplers by one ask/tell adapter, for those who know them.

Akiba et al., "Optuna" (KDD 2019, arXiv:1907.10902). Decisions are categorical parameters; CMA-ES,
which knows no categories, sees whole numbers. Of a front, the samplers that know several objectives
(TPE, GP, NSGA-II) get them all; CMA-ES gets a weighted sum of their logarithms.

Where we differ: a proposal that breaks a bound or was met before is answered with its violation, or
with what is known of it, and is not evaluated; after ``tries`` of them it is the nearest admissible
one. A search that resumes replays what was asked and told, since optuna's samplers have no state
that could be saved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from nasdeploy.errors import UsageError
from nasdeploy.search.admissible import nearest_within
from nasdeploy.search.goal import Goal
from nasdeploy.search.objective import Bounds
from nasdeploy.search.scalarise import Chebyshev
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.strategies.proposer import Proposer, SamplerSettings, at_least_one
from nasdeploy.search.strategy import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class OptunaSettings(SamplerSettings):
    """
    Attributes:
        initial_trials: Drawn at random before the sampler's method begins; of NSGA-II, its
            population.
    """

    initial_trials: int = 10
    trials_per_step: int = 4

    def __post_init__(self) -> None:
        super(OptunaSettings, self).__post_init__()
        at_least_one(self, "initial_trials")


def _tpe(seed: int, settings: OptunaSettings) -> Any:
    from optuna.samplers import TPESampler

    return TPESampler(seed=seed, n_startup_trials=settings.initial_trials)


def _gp(seed: int, settings: OptunaSettings) -> Any:
    from optuna.samplers import GPSampler

    return GPSampler(
        seed=seed, n_startup_trials=settings.initial_trials, deterministic_objective=False
    )


def _nsga2(seed: int, settings: OptunaSettings) -> Any:
    from optuna.samplers import NSGAIISampler

    return NSGAIISampler(seed=seed, population_size=max(2, settings.initial_trials))


def _cmaes(seed: int, settings: OptunaSettings) -> Any:
    try:
        import cmaes  # type: ignore[import-untyped]  # noqa: F401  # optuna imports it only after the first trials
    except ImportError:
        raise UsageError("optuna-cmaes needs the package cmaes: pip install cmaes.") from None
    from optuna.samplers import CmaEsSampler

    return CmaEsSampler(
        seed=seed, n_startup_trials=settings.initial_trials, warn_independent_sampling=False
    )


@dataclass(frozen=True, slots=True)
class OptunaKind:
    """
    Attributes:
        sampler: Made of a seed and the settings.
        categorical: Whether it knows categories; else choices are whole numbers.
        several: Whether it knows several objectives.
    """

    sampler: Callable[[int, OptunaSettings], Any]
    categorical: bool = True
    several: bool = True
    settings: type[OptunaSettings] = field(default=OptunaSettings)

    @property
    def make(self) -> Callable[[SearchSpace, Bounds, Goal, Any, int], OptunaSampler]:
        return partial(OptunaSampler, self)


class OptunaSampler(Proposer):
    """A `Sampler`."""

    def __init__(
        self,
        kind: OptunaKind,
        space: SearchSpace,
        bounds: Bounds,
        goal: Goal,
        settings: OptunaSettings,
        seed: int,
    ) -> None:
        super().__init__(space, bounds, goal, settings, seed)
        self.kind = kind
        self.settings = settings
        self.seed = seed
        self._judge = Chebyshev(goal, self.rng)
        self._begin()

    def _begin(self) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        several = self.goal.several and self.kind.several
        directions: list[Any] = ["minimize"] * (len(self.goal.objectives) if several else 1)
        self._study = optuna.create_study(
            sampler=self.kind.sampler(self.seed, self.settings), directions=directions
        )
        self._distributions: dict[str, Any] = {
            f"{index:03d}": optuna.distributions.CategoricalDistribution(
                tuple(range(len(decision.choices)))
            )
            if self.kind.categorical
            else optuna.distributions.IntDistribution(0, len(decision.choices) - 1)
            for index, decision in enumerate(self.space.decisions)
        }
        self._open: dict[Arch, Any] = {}
        self._worst: list[float] | None = None
        self._log: list[Any] = []  # what was asked and told, in order

    def propose(self, pending: Sequence[Arch]) -> Arch | None:
        del pending
        for _ in range(self.tries):
            trial, arch = self._ask()
            if arch not in self.met and self.bounds.admits([arch])[0]:
                self._open[arch] = trial
                return arch
            self._study.tell(trial, state=self._failed())
        last = arch
        found = nearest_within(self.space, self.bounds, self.rng, exclude=self.met, towards=last)
        if found is not None:
            self._open[found] = None  # told to optuna as a trial that it did not ask for
        return found

    def _ask(self) -> tuple[Any, Arch]:
        trial = self._study.ask(self._distributions)
        return trial, tuple(int(trial.params[name]) for name in sorted(self._distributions))

    def _failed(self) -> Any:
        from optuna.trial import TrialState

        return TrialState.FAIL

    def ask(self, n: int) -> list[Arch]:
        """Up to `n` new architectures within the bounds; fewer when there are no more."""
        self._log.append(n)
        return super().ask(n)

    def tell(self, trials: Sequence[Trial]) -> None:
        super().tell(trials)
        self._log.append([trial.to_json() for trial in trials])
        for trial in trials:
            self._tell_one(trial)

    def _tell_one(self, trial: Trial) -> None:
        import optuna

        open_ = self._open.pop(trial.arch, None)
        usable = trial.failure is None and self.goal.usable(trial.metrics)
        if not usable:
            if open_ is not None:
                self._study.tell(open_, state=self._failed())
            return
        values = self._values(trial)
        if open_ is not None:
            self._study.tell(open_, values)
            return
        params = {f"{index:03d}": choice for index, choice in enumerate(trial.arch)}
        self._study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=self._distributions, values=values
            )
        )

    def _values(self, trial: Trial) -> list[float]:
        if not self.goal.several:
            return [-self.score(trial)]
        vector = np.array(self.goal.vector(trial.metrics))
        away = self.goal.preference.distance(trial.metrics)
        if self.kind.several:
            return list(map(float, vector + away * np.maximum(np.abs(vector), 1e-12)))
        logs = np.sign(vector) * np.log(np.maximum(np.abs(vector), 1e-12))
        return [float(self._judge.weights @ logs + away)]

    def state_dict(self) -> dict[str, Any]:
        return {"seed": self.seed, "log": list(self._log)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Do again what was done: the same seed asks the same of the same answers."""
        from random import Random

        self.seed = state["seed"]
        self.rng = Random(self.seed)
        self.met, self.known = {}, []
        self._judge = Chebyshev(self.goal, self.rng)
        self._begin()
        for entry in state["log"]:
            if isinstance(entry, int):
                self.ask(entry)
            else:
                self.tell([Trial.of_json(told) for told in entry])


OPTUNA: dict[str, OptunaKind] = {
    "optuna-cmaes": OptunaKind(_cmaes, categorical=False, several=False),
    "optuna-gp": OptunaKind(_gp),
    "optuna-nsga2": OptunaKind(_nsga2),
    "optuna-tpe": OptunaKind(_tpe),
}
