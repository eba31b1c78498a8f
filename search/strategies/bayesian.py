"""Bayesian optimisation: a Gaussian process says where the next improvement is likeliest.

Jones, Schonlau and Welch (Journal of Global Optimization 13, 1998), equation 15: expected
improvement. Gardner et al., "Bayesian Optimization with Inequality Constraints" (ICML 2014),
section 3.1: times the probability that the bound holds. Ginsbourger et al., "Kriging is
well-suited to parallelize optimization" (2010), section 4: within a batch the model believes its
own prediction. The process is in `search/gaussian_process.py`, what it compares in
`search/features.py`.

Where we differ: the model sees the logarithm of what a value lacks to the best, since networks that
learn nothing would else stretch the scale on which the good ones are told apart. While nothing
better is found it sees ranks, which look less closely at the best, and is believed to be less
certain than it says, the longer the less: else a search can stay beside the second best. A small
space is looked at whole. Of a front the model sees the values; costs are known and only the
metric is uncertain, so that the expected gain of hypervolume needs no sampling
(`search/front_gain.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nasdeploy.search.features import Features
from nasdeploy.search.front_gain import expected_gain
from nasdeploy.search.gaussian_process import GaussianProcess, fit_kernel
from nasdeploy.search.goal import Goal
from nasdeploy.search.hypervolume import front_layers
from nasdeploy.search.objective import Bounds
from nasdeploy.search.pool import Pool
from nasdeploy.search.ranks import Gaps, Quantiles, Scaled, levels
from nasdeploy.search.scalarise import Chebyshev
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.strategies.proposer import Proposer, SamplerSettings, at_least_one

FloatArray = npt.NDArray[np.float64]
_NEAR = 10  # of the best, whose mutations are looked at in a large space
_MOST = 400  # observations in the model: the best half, and the latest

_STALE = 5  # proposals without a better one
_LESS_CERTAIN = 20  # more of them, until deviations count double

_LEAST_DEVIATION = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class BayesianSettings(SamplerSettings):
    """
    Attributes:
        initial_trials: Drawn at random before the model is asked.
    """

    initial_trials: int = 10
    trials_per_step: int = 4

    def __post_init__(self) -> None:
        super(BayesianSettings, self).__post_init__()
        at_least_one(self, "initial_trials")


class Bayesian(Proposer):
    """A `Sampler`."""

    def __init__(
        self, space: SearchSpace, bounds: Bounds, goal: Goal, settings: BayesianSettings, seed: int
    ) -> None:
        super().__init__(space, bounds, goal, settings, seed)
        self.initial_trials = settings.initial_trials
        self._pool = Pool(space, bounds)
        self._features = Features(space)
        self._kernel = self._features.kernel()
        self._fitted_on = 0
        self._judge = Chebyshev(goal, self.rng)

    def propose(self, pending: Sequence[Arch]) -> Arch | None:
        if len(self.met) < self.initial_trials or len(self.known) < 2:
            return self.draw()
        archs = self._pool.candidates(self.rng, exclude=self.met, near=self._best(_NEAR))
        if not len(archs):
            return None
        values = self._values()
        kept = self._kept(values)
        scale = Scaled(values[kept])
        stale = max(0, len(values) - 1 - int(values.argmax()) - _STALE + 1)
        single = (Quantiles if stale else Gaps)(values[kept])
        normal = scale.normal if self.goal.several else single.normal
        known = [self.known[index].arch for index in kept]
        features = self._features(np.concatenate([np.array([*known, *pending]), archs]))
        observed, believed, new = np.split(features, [len(known), len(known) + len(pending)])
        self._fit(observed, normal)
        model = GaussianProcess(self._kernel, observed, normal)
        for arch in believed:
            model = model.believing(arch)
        mean, deviation = model.predict(new)
        if self.goal.several:
            metric = scale.values(model.values[len(kept) :])
            gain = self._front_gain(archs, levels(scale, mean, deviation), pending, metric)
        else:
            wider = deviation * (1 + max(0, stale - 1) / _LESS_CERTAIN)
            gain = expected_improvement(mean, wider, float(normal.max()))
        gain = gain * self.bounds.probability(archs)
        if not gain.max() > 0:  # nothing is expected of any: take the one that is known least
            gain = deviation
        return tuple(archs[int(gain.argmax())].tolist())

    def _front_gain(
        self,
        archs: npt.NDArray[np.integer],
        likely: FloatArray,
        pending: Sequence[Arch],
        believed: FloatArray,
    ) -> FloatArray:
        known = np.array([self.goal.vector(trial.metrics) for trial in self.known])
        if len(pending):
            costs = self.goal.costs_of(pending)
            known = np.vstack([known, np.column_stack([-believed, costs])])
        gain = expected_gain(known, likely, self.goal.costs_of(archs), self._judge.weights)
        if self.goal.preference.intervals:
            gain = gain * np.exp(-self._outside(archs, likely.mean(axis=1)))
        self._judge.draw()
        return gain

    def _outside(self, archs: npt.NDArray[np.integer], metric: FloatArray) -> FloatArray:
        """(n,) how far each is expected to lie outside of what is preferred."""
        rows = np.column_stack([metric, self.goal.costs_of(archs)]).tolist()
        named = (dict(zip(self.goal.objectives, row, strict=True)) for row in rows)
        return np.array([self.goal.preference.distance(metrics) for metrics in named])

    def _values(self) -> FloatArray:
        """(n,) what the model is of: the goal's score, of a front the metric."""
        return np.array([self.score(trial) for trial in self.known])

    def _best(self, n: int) -> list[Arch]:
        if not self.goal.several:
            order = np.argsort(-self._values(), kind="stable")
        else:
            costs = np.array([self.goal.vector(trial.metrics) for trial in self.known])
            order = np.argsort(front_layers(costs), kind="stable")
        return [self.known[index].arch for index in order[:n]]

    def _kept(self, values: FloatArray) -> list[int]:
        if len(values) <= _MOST:
            return list(range(len(values)))
        best = np.argsort(-values, kind="stable")[: _MOST // 2]
        latest = range(len(values) - _MOST // 2, len(values))
        return sorted({*best.tolist(), *latest})

    def _fit(self, observed: FloatArray, values: FloatArray) -> None:
        """Fit the kernel anew when a twentieth more is known than last time."""
        if len(self.known) >= max(self._fitted_on + 1, round(1.05 * self._fitted_on)):
            self._kernel = fit_kernel(observed, values, self._kernel)
            self._fitted_on = len(self.known)

    def state_dict(self) -> dict[str, Any]:
        kernel = {"kernel": self._kernel.logs.tolist(), "fitted_on": self._fitted_on}
        weights = {"weights": self._judge.weights.tolist()}
        return {**super().state_dict(), **kernel, **weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._kernel = self._kernel.with_logs(np.array(state["kernel"]))
        self._fitted_on = state["fitted_on"]
        self._judge.weights = np.array(state["weights"])


def expected_improvement(mean: FloatArray, deviation: FloatArray, best: float) -> FloatArray:
    """(n,) of normal variables over `best`; what they lack where it underflows is kept in order."""
    from scipy.special import log_ndtr, ndtr

    deviation = np.maximum(deviation, _LEAST_DEVIATION)  # known exactly: nothing to be gained
    z = (mean - best) / deviation
    density = np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi)
    gain: FloatArray = deviation * (z * ndtr(z) + density)
    # far below the best the difference of the two terms is lost; its order is that of the tail
    return np.where(z > -5, gain, deviation * np.exp(log_ndtr(z)) / np.maximum(z * z, 1.0))
