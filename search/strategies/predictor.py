"""Predictor-guided search: mutations of the best, chosen by what an ensemble may think of them.

White et al., "BANANAS" (AAAI 2021, arXiv:1910.11858), algorithm 1: candidates are mutations of the
best, the acquisition is independent Thompson sampling, or an upper confidence bound. The ensemble
is in `search/ensemble.py`.

Where we differ: the ensemble sees ranks, and a small space offers all its architectures beside the
mutations. Of a front, the metric is drawn from the ensemble, the costs are known, and the one with
the greatest gain is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nasdeploy.errors import UnknownName
from nasdeploy.search.ensemble import Ensemble, rank_correlation
from nasdeploy.search.front_gain import expected_gain
from nasdeploy.search.goal import Goal
from nasdeploy.search.objective import Bounds
from nasdeploy.search.pool import Pool
from nasdeploy.search.ranks import Quantiles
from nasdeploy.search.scalarise import Chebyshev
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.strategies.proposer import Proposer, SamplerSettings, at_least_one

ACQUISITIONS = ("thompson", "ucb")


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorSettings(SamplerSettings):
    """
    Attributes:
        initial_trials: Drawn at random before the ensemble is asked.
        acquisition: ``"thompson"`` follows another member for each proposal, ``"ucb"`` the mean and
            a standard deviation.
    """

    initial_trials: int = 20
    acquisition: str = "thompson"

    def __post_init__(self) -> None:
        super(PredictorSettings, self).__post_init__()
        at_least_one(self, "initial_trials")
        if self.acquisition not in ACQUISITIONS:
            raise UnknownName("acquisition", self.acquisition, ACQUISITIONS)


class Predictor(Proposer):
    """A `Sampler`."""

    def __init__(
        self, space: SearchSpace, bounds: Bounds, goal: Goal, settings: PredictorSettings, seed: int
    ) -> None:
        super().__init__(space, bounds, goal, settings, seed)
        self.initial_trials = settings.initial_trials
        self.acquisition = settings.acquisition
        self._pool = Pool(space, bounds)
        self._judge = Chebyshev(goal, self.rng)

    def ask(self, n: int) -> list[Arch]:
        """Up to `n` new architectures within the bounds; fewer when there are no more."""
        if len(self.met) < self.initial_trials or len(self.known) < 2:
            return super().ask(n)
        archs = self._pool.candidates(self.rng, exclude=self.met, near=self._best())
        chosen = self._chosen(archs, n) if len(archs) else []
        self.met.update(dict.fromkeys(chosen))
        return chosen + (super().ask(n - len(chosen)) if len(chosen) < n else [])

    def propose(self, pending: Sequence[Arch]) -> Arch | None:
        del pending
        return self.draw()

    def _chosen(self, archs: np.ndarray, n: int) -> list[Arch]:
        values = np.array([self.score(trial) for trial in self.known])
        quantiles = Quantiles(values)
        known = [trial.arch for trial in self.known]
        ensemble = Ensemble(
            self.space.decisions, known, quantiles.normal, seed=self.rng.getrandbits(32)
        )
        upper = np.sum(ensemble.predict(archs), axis=0) if self.acquisition == "ucb" else None
        chosen: list[Arch] = []
        while len(chosen) < min(n, len(archs)):
            drawn = upper
            if drawn is None:
                drawn = ensemble.member(self.rng.randrange(ensemble.size), archs)
            gain = self._gain(archs, quantiles.values(drawn), drawn)
            for arch in chosen:
                gain[(archs == np.array(arch)).all(axis=1)] = -np.inf
            chosen.append(tuple(archs[int(gain.argmax())].tolist()))
        return chosen

    def _gain(self, archs: np.ndarray, values: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        if not self.goal.several:
            return ranks.copy()
        vectors = np.array([self.goal.vector(trial.metrics) for trial in self.known])
        self._judge.draw()
        gain = expected_gain(
            vectors, values[:, None], self.goal.costs_of(archs), self._judge.weights
        )
        return gain if gain.max() > 0 else ranks.copy()

    def _best(self) -> list[Arch]:
        scores = self._judge.scores(self.known)
        order = np.argsort(-scores, kind="stable")[:10]
        return [self.known[index].arch for index in order]

    @property
    def rank_correlation(self) -> float:
        """Spearman's, on what is known, by ensembles that were not fitted on it."""
        values = np.array([self.score(trial) for trial in self.known])
        archs = [trial.arch for trial in self.known]
        return rank_correlation(self.space.decisions, archs, values, seed=0)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "weights": self._judge.weights.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._judge.weights = np.array(state["weights"])
