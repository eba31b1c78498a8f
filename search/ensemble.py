"""An ensemble of small nets over two encodings, whose disagreement is its uncertainty.

Lakshminarayanan et al., "Simple and Scalable Predictive Uncertainty Estimation using Deep
Ensembles" (NeurIPS 2017, arXiv:1612.01474), for architectures as in White et al., "BANANAS" (AAAI
2021, arXiv:1910.11858). Each member sees a resample of the data (Breiman, "Bagging Predictors",
1996).

Where we differ: a net's hidden layer is random and only its output is fitted, by ridge regression
(Huang et al., "Extreme learning machine", Neurocomputing 70, 2006), which takes milliseconds, so
that it can be fitted anew after every batch. Half of the members see the choices alone, the others
also how often each choice is taken by all decisions that offer the same ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nasdeploy.search.features import counted as counts_of
from nasdeploy.search.gaussian_process import one_hot
from nasdeploy.search.space import Arch, Decision

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]

_MEMBERS = 10
_HIDDEN = 128
_RIDGE = 0.3  # of the mean squared feature, for each observation that is not there


class Encoding:
    """Architectures as numbers.

    Args:
        counted: Beside each choice, the share of like decisions that take it.
    """

    def __init__(self, decisions: Sequence[Decision], *, counted: bool) -> None:
        self.choices = [len(decision.choices) for decision in decisions]
        shares = counts_of(decisions)
        self._shares = shares if counted else shares[:, :0]

    def __call__(self, archs: Sequence[Arch] | IntArray) -> FloatArray:
        taken = one_hot(archs, self.choices)
        counts = taken @ self._shares
        return np.hstack([taken, counts / max(len(self.choices) ** 0.5, 1.0)])


class Ensemble:
    """Predicts means and deviations in the unit of `values`; a member is fitted when it is asked.

    Args:
        archs: (n, decisions), at least two.
        values: (n,).
        seed: Of the hidden layers and the resamples.
    """

    size = _MEMBERS

    def __init__(
        self,
        decisions: Sequence[Decision],
        archs: Sequence[Arch] | IntArray,
        values: FloatArray,
        *,
        seed: int,
    ) -> None:
        rng = np.random.default_rng(seed)
        self._encodings = [Encoding(decisions, counted=counted) for counted in (False, True)]
        self._encoded = [encoding(archs) for encoding in self._encodings]
        self._values, self._mean = values, float(values.mean())
        # drawn for all at once, so that what a member says does not depend on who was asked before
        self._drawn = []
        for member in range(_MEMBERS):
            inputs = self._encoded[member % 2].shape[1]
            weights = rng.standard_normal((inputs + 1, _HIDDEN)) / np.sqrt(len(decisions))
            self._drawn.append((weights, rng.integers(len(values), size=len(values))))
        self._outputs: dict[int, FloatArray] = {}

    def predict(self, archs: Sequence[Arch] | IntArray) -> tuple[FloatArray, FloatArray]:
        """(n,) mean and standard deviation over the members."""
        each = np.stack([self.member(number, archs) for number in range(_MEMBERS)])
        return each.mean(axis=0), each.std(axis=0)

    def member(self, number: int, archs: Sequence[Arch] | IntArray) -> FloatArray:
        """(n,) what one of the `size` members predicts."""
        weights, _ = self._drawn[number]
        hidden = _hidden(self._encodings[number % 2](archs), weights)
        return self._mean + hidden @ self._output(number)

    def _output(self, number: int) -> FloatArray:
        """(hidden layer and more,) the weights that are fitted."""
        if number not in self._outputs:
            weights, rows = self._drawn[number]
            hidden = _hidden(self._encoded[number % 2][rows], weights)
            ridge = _RIDGE * float((hidden**2).mean()) * np.eye(hidden.shape[1])
            right = hidden.T @ (self._values[rows] - self._mean)
            output = np.linalg.solve(hidden.T @ hidden + ridge, right)
            self._outputs[number] = np.asarray(output, np.float64)
        return self._outputs[number]


def _hidden(encoded: FloatArray, weights: FloatArray) -> FloatArray:
    """The encoding itself beside the hidden layer, so that a linear part is not lost."""
    layer = np.maximum(encoded @ weights[:-1] + weights[-1], 0.0)
    return np.hstack([encoded, layer, np.ones((len(encoded), 1))])


def rank_correlation(
    decisions: Sequence[Decision],
    archs: Sequence[Arch],
    values: FloatArray,
    *,
    seed: int,
    folds: int = 5,
) -> float:
    """Spearman's, between values and predictions of ensembles that were not fitted on them.

    Not a number with fewer than two for each fold, or where all values are equal.
    """
    from scipy.stats import spearmanr

    if len(values) < 2 * folds or not np.ptp(values) > 0:
        return float("nan")
    fold = np.random.default_rng(seed).permutation(len(values)) % folds
    population = np.asarray(archs)
    predicted = np.empty(len(values))
    for number in range(folds):
        out = fold == number
        fitted = Ensemble(decisions, population[~out], values[~out], seed=seed)
        predicted[out] = fitted.predict(population[out])[0]
    found: Any = spearmanr(predicted, values).statistic
    return float(found)
