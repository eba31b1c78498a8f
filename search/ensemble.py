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

from nasdeploy.search.gaussian_process import counted as counts_of
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
    """Fitted once; predicts means and deviations in the unit of `values`.

    Args:
        archs: (n, decisions), at least two.
        values: (n,).
        seed: Of the hidden layers and the resamples.
    """

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
        encoded = [encoding(archs) for encoding in self._encodings]
        self._mean = float(values.mean())
        self._members: list[tuple[int, FloatArray, FloatArray]] = []
        for member in range(_MEMBERS):
            which = member % 2
            size = encoded[which].shape[1]
            weights = rng.standard_normal((size + 1, _HIDDEN)) / np.sqrt(len(decisions))
            rows = rng.integers(len(values), size=len(values))
            hidden = _hidden(encoded[which][rows], weights)
            ridge = _RIDGE * float((hidden**2).mean()) * np.eye(hidden.shape[1])
            right = hidden.T @ (values[rows] - self._mean)
            output: FloatArray = np.asarray(
                np.linalg.solve(hidden.T @ hidden + ridge, right), np.float64
            )
            self._members.append((which, weights, output))

    def predict(self, archs: Sequence[Arch] | IntArray) -> tuple[FloatArray, FloatArray]:
        """(n,) mean and standard deviation over the members."""
        each = self.members(archs)
        return each.mean(axis=0), each.std(axis=0)

    def members(self, archs: Sequence[Arch] | IntArray) -> FloatArray:
        """(members, n) what each predicts."""
        encoded = [encoding(archs) for encoding in self._encodings]
        return np.stack(
            [
                self._mean + _hidden(encoded[which], weights) @ output
                for which, weights, output in self._members
            ]
        )


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
