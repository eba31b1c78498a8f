"""A front's objectives as one number, by weights that are drawn anew.

Knowles, "ParEGO" (IEEE Transactions on Evolutionary Computation 10, 2006), section IV: the
augmented Chebyshev function of objectives that are scaled to 0 to 1 over what was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import numpy.typing as npt

from nasdeploy.search.goal import Goal
from nasdeploy.search.strategy import Trial

_AUGMENTED = 0.05


class Chebyshev:
    """The judge of a search that follows one number; with one objective it is the goal's score."""

    def __init__(self, goal: Goal, rng: Random) -> None:
        self.goal = goal
        self._rng = rng
        self.weights = np.full(len(goal.objectives), 1.0 / len(goal.objectives))
        self.draw()

    def draw(self) -> None:
        """New weights, evenly over those that sum to 1."""
        if self.goal.several:
            parts = np.array([self._rng.expovariate(1.0) for _ in self.goal.objectives])
            self.weights = parts / parts.sum()

    def scores(self, trials: Sequence[Trial]) -> npt.NDArray[np.float64]:
        """(n,) higher is better; of a front, relative to what is in `trials`."""
        if not trials:
            return np.zeros(0)
        if not self.goal.several:
            return np.array([self.goal.score(trial.metrics) for trial in trials])
        costs = np.array([self.goal.vector(trial.metrics) for trial in trials])
        low, high = costs.min(axis=0), costs.max(axis=0)
        scaled = (costs - low) / np.where(high > low, high - low, 1.0) * self.weights
        away = np.array([self.goal.preference.distance(trial.metrics) for trial in trials])
        scores: npt.NDArray[np.float64] = -(
            scaled.max(axis=1) + _AUGMENTED * scaled.sum(axis=1) + away
        )
        return scores
