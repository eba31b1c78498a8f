"""A Gaussian process over architectures: which decisions differ, and how far what they make does.

Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), algorithm 2.1 and section
5.4.1. The kernel is that of categorical inputs, an exponential of weighted mismatches (Hutter et
al., "Sequential Model-Based Optimization for General Algorithm Configuration", LION 2011, section
4.2), with a scale for all decisions and a weight for each.

Where we differ: a second part of the kernel is squared-exponential in features that are the same
for all ways in which a network can be written (`search/features.py`), so that what is learnt of an
operator in one place is expected of it in the others. The variance of the process is not searched
but solved for, and what is searched has narrow priors. With as few observations as
a search has, likelihood prefers a process that is too smooth, and explains chance by single
decisions: such kernels found worse cells of NAS-Bench-201 than one that hardly moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]

# (mean, spread) of logarithms: the weights, the noise as a share of the variance; spread: the scale
_SCALE_SPREAD = 0.1
_WEIGHT = (0.0, 0.1)
_NOISE = (-7.0, 1.0)
_LEAST_NOISE = 1e-6
_CHUNK = 8192  # architectures at a time: their correlations with 300 others take 20 MB


def one_hot(archs: Sequence[tuple[int, ...]] | IntArray, choices: Sequence[int]) -> FloatArray:
    """(n, all choices of all decisions): 1 for each choice that is taken, of (n, decisions)."""
    columns = np.asarray(archs, np.intp).reshape(-1, len(choices))
    columns = columns + np.cumsum([0, *choices[:-1]])
    taken = np.zeros((len(columns), sum(choices)))
    np.put_along_axis(taken, columns, 1.0, axis=1)
    return taken


@dataclass(frozen=True, eq=False)
class Kernel:
    """Two parts, ``exp(-weights of the decisions that differ)`` and one of what is beside them.

    Architectures are rows of (all choices of all decisions, and more): one-hot forms, and beside
    them features whose squared distance is what it takes off the logarithm of the second part.

    Attributes:
        choices: How many each decision has.
        share: Of the second part, in which nothing is learnt.
        scale: Of the mismatches, before anything is known: half of the decisions changed leaves
            ``exp(-scale / 2)``.
        logs: (1 + decisions + 1,) logarithms of the scale, the weights, and the variance of an
            observation as a share of the process's.
    """

    choices: tuple[int, ...]
    share: float
    scale: float
    logs: FloatArray

    @classmethod
    def usual(cls, choices: Sequence[int], *, share: float, scale: float) -> Kernel:
        """Before anything is known."""
        logs = [np.log(scale), *([_WEIGHT[0]] * len(choices)), _NOISE[0]]
        return cls(tuple(choices), share, scale, np.array(logs))

    def with_logs(self, logs: FloatArray) -> Kernel:
        return Kernel(self.choices, self.share, self.scale, np.asarray(logs, np.float64))

    @cached_property
    def weights(self) -> FloatArray:
        """(decisions,) what a mismatch takes off the logarithm of the first part."""
        weights: FloatArray = np.exp(self.logs[0] + self.logs[1:-1]) / len(self.choices)
        return weights

    @property
    def noise(self) -> float:
        return float(np.exp(self.logs[-1]))

    def __call__(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """(n, m) correlations of n with m architectures, without noise."""
        return self.of_mismatches(a, b) + self.of_features(a, b)

    def of_mismatches(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """The first part."""
        taken = sum(self.choices)
        part = (a[:, :taken] * np.repeat(self.weights, self.choices)) @ b[:, :taken].T
        part -= self.weights.sum()
        np.exp(part, out=part)
        part *= 1 - self.share
        return part

    def of_features(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """The second part; nothing in it is learnt."""
        a, b = a[:, sum(self.choices) :], b[:, sum(self.choices) :]
        part = (2 * a) @ b.T
        part -= (a**2).sum(axis=1)[:, None]
        part -= (b**2).sum(axis=1)
        np.exp(part, out=part)
        part *= self.share
        return part


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """The posterior, given observations.

    Attributes:
        observed: (n, all choices and features) architectures.
        values: (n,) any unit; the prior's mean is their mean.
    """

    kernel: Kernel
    observed: FloatArray
    values: FloatArray

    @cached_property
    def _cholesky(self) -> FloatArray:
        matrix = self.kernel(self.observed, self.observed)
        matrix[np.diag_indices_from(matrix)] += self.kernel.noise
        cholesky: FloatArray = np.asarray(np.linalg.cholesky(matrix), np.float64)
        return cholesky

    @cached_property
    def _solved(self) -> FloatArray:
        return _solve(self._cholesky, self.values - self.values.mean())

    @cached_property
    def variance(self) -> float:
        """Of the process, by maximum likelihood, in the square of the values' unit."""
        return float((self.values - self.values.mean()) @ self._solved / len(self.values))

    def predict(self, archs: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(n,) mean and standard deviation of (n, all choices and features), noise left out."""
        from scipy.linalg import solve_triangular

        means, deviations = np.empty(len(archs)), np.empty(len(archs))
        for start in range(0, len(archs), _CHUNK):
            part = slice(start, start + _CHUNK)
            cross = self.kernel(self.observed, archs[part])
            means[part] = self.values.mean() + self._solved @ cross
            half = solve_triangular(self._cholesky, cross, lower=True, check_finite=False)
            left = 1.0 - np.einsum("ij,ij->j", half, half)
            deviations[part] = np.sqrt(self.variance * np.maximum(left, 1e-12))
        return means, deviations

    def believing(self, arch: FloatArray) -> GaussianProcess:
        """As if `arch`, (choices and features,), had been observed where it is expected to lie."""
        mean = self.predict(arch[None])[0]
        return GaussianProcess(
            self.kernel, np.vstack([self.observed, arch]), np.append(self.values, mean)
        )


def fit_kernel(observed: FloatArray, values: FloatArray, start: Kernel) -> Kernel:
    """The most probable kernel, given observations; from `start` downhill.

    Constant values say nothing: then it is `start`.

    Args:
        observed: (n, all choices and features).
    """
    from scipy.optimize import minimize

    if len(values) < 2 or not np.ptp(values) > 0:
        return start
    parts = np.split(observed, np.cumsum(start.choices), axis=1)[:-1]
    differs = np.stack([1.0 - part @ part.T for part in parts])
    fixed = start.of_features(observed, observed)
    bounds: list[tuple[float | None, float | None]] = [(-6.0, 6.0)] * len(start.logs)
    bounds[-1] = (float(np.log(_LEAST_NOISE)), 1.0)
    found = minimize(
        _loss, start.logs, (start, differs, fixed, values - values.mean()),
        jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 30},
    )  # fmt: skip
    return start.with_logs(found.x)


def _loss(
    logs: FloatArray, start: Kernel, differs: FloatArray, fixed: FloatArray, values: FloatArray
) -> tuple[float, FloatArray]:
    """Negative log posterior of a kernel, and its gradient.

    Args:
        differs: (decisions, n, n) 1 where two architectures differ in a decision.
        fixed: (n, n) the part of the kernel that is not learnt.
    """
    kernel, n, decisions = start.with_logs(logs), len(values), len(start.choices)
    learnt = (1 - kernel.share) * np.exp(-np.tensordot(kernel.weights, differs, axes=1))
    matrix = learnt + fixed + kernel.noise * np.eye(n)
    cholesky: FloatArray = np.asarray(np.linalg.cholesky(matrix), np.float64)
    inverse = _solve(cholesky, np.eye(n))
    alpha = inverse @ values
    quadratic = float(values @ alpha)
    means = np.array([np.log(start.scale), *([_WEIGHT[0]] * decisions), _NOISE[0]])
    spreads = np.array([_SCALE_SPREAD, *([_WEIGHT[1]] * decisions), _NOISE[1]])
    away = (logs - means) / spreads
    loss = 0.5 * n * np.log(quadratic / n) + np.log(np.diag(cholesky)).sum() + 0.5 * away @ away
    # d loss / d matrix; the matrix changes with log(weight) by -weight * differs * the learnt part
    slope = 0.5 * inverse - 0.5 * n / quadratic * np.outer(alpha, alpha)
    by_weight = -kernel.weights * np.tensordot(differs, slope * learnt, axes=2)
    by_noise = kernel.noise * np.trace(slope)
    gradient = np.concatenate([[by_weight.sum()], by_weight, [by_noise]]) + away / spreads
    return float(loss), gradient


def _solve(cholesky: FloatArray, right: FloatArray) -> FloatArray:
    from scipy.linalg import cho_solve

    solved: FloatArray = cho_solve((cholesky, True), right, check_finite=False)
    return solved
