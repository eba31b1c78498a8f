"""A Gaussian process over architectures, whose kernel counts the decisions that differ.

Rasmussen and Williams, "Gaussian Processes for Machine Learning" (2006), algorithm 2.1 and section
5.4.1. The kernel is that of categorical inputs, an exponential of weighted mismatches (Hutter et
al., "Sequential Model-Based Optimization for General Algorithm Configuration", LION 2011, section
4.2), with a scale for all decisions and a weight for each.

Where we differ: a second part of the kernel compares how often each choice is taken by all
decisions that offer the same ones, so that what is learnt of a convolution in one place is expected
of it in the others; it finds the best cells of NAS-Bench-201 earlier. The variance of the process
is not searched but solved for, and what is searched has narrow priors. With as few observations as
a search has, likelihood prefers a process that is too smooth, and explains chance by single
decisions: such kernels found worse cells of NAS-Bench-201 than one that hardly moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from nasdeploy.search.space import Decision

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]

# (mean, spread) of logarithms: the scale, the weights, the noise as a share of the variance
_SCALE = (float(np.log(2.0)), 0.1)
_WEIGHT = (0.0, 0.1)
_NOISE = (-7.0, 1.0)
_LEAST_NOISE = 1e-6
_COUNTED_SHARE, _COUNTED_SCALE = 0.3, 0.48
_CHUNK = 8192  # architectures at a time: their correlations with 300 others take 20 MB


def one_hot(archs: Sequence[tuple[int, ...]] | IntArray, choices: Sequence[int]) -> FloatArray:
    """(n, all choices of all decisions): 1 for each choice that is taken, of (n, decisions)."""
    columns = np.asarray(archs, np.intp).reshape(-1, len(choices))
    columns = columns + np.cumsum([0, *choices[:-1]])
    taken = np.zeros((len(columns), sum(choices)))
    np.put_along_axis(taken, columns, 1.0, axis=1)
    return taken


def counted(decisions: Sequence[Decision]) -> FloatArray:
    """(all choices of all decisions, choices of all alphabets): adds a one-hot form up to counts.

    An alphabet is a tuple of choices that one or more decisions offer.
    """
    alphabets = list(dict.fromkeys(decision.choices for decision in decisions))
    starts = np.cumsum([0, *map(len, alphabets)])
    rows = [
        starts[alphabets.index(decision.choices)] + choice
        for decision in decisions
        for choice in range(len(decision.choices))
    ]
    return np.eye(int(starts[-1]))[rows]


@dataclass(frozen=True, eq=False)
class Kernel:
    """Two parts, ``exp(-weights of the decisions that differ)`` and the same of the counts.

    Attributes:
        choices: How many each decision has.
        counts: (all choices, choices of all alphabets), from `counted`.
        logs: (1 + decisions + 1,) logarithms of the scale, the weights, and the variance of an
            observation as a share of the process's.
    """

    choices: tuple[int, ...]
    counts: FloatArray
    logs: FloatArray

    @classmethod
    def usual(cls, decisions: Sequence[Decision]) -> Kernel:
        """Before anything is known: half of the decisions changed leaves a correlation of 1/e."""
        choices = tuple(len(decision.choices) for decision in decisions)
        logs = [_SCALE[0], *([_WEIGHT[0]] * len(choices)), _NOISE[0]]
        return cls(choices, counted(decisions), np.array(logs))

    def with_logs(self, logs: FloatArray) -> Kernel:
        return Kernel(self.choices, self.counts, np.asarray(logs, np.float64))

    @cached_property
    def weights(self) -> FloatArray:
        """(decisions,) what a mismatch takes off the logarithm of the first part."""
        weights: FloatArray = np.exp(self.logs[0] + self.logs[1:-1]) / len(self.choices)
        return weights

    @property
    def noise(self) -> float:
        return float(np.exp(self.logs[-1]))

    def __call__(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """(n, m) correlations of n with m architectures in one-hot form, without noise."""
        return self.of_mismatches(a, b) + self.of_counts(a, b)

    def of_mismatches(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """The first part."""
        part = (a * np.repeat(self.weights, self.choices)) @ b.T
        part -= self.weights.sum()
        np.exp(part, out=part)
        part *= 1 - _COUNTED_SHARE
        return part

    def of_counts(self, a: FloatArray, b: FloatArray) -> FloatArray:
        """The second part; nothing in it is learnt."""
        a, b = a @ self.counts, b @ self.counts
        part = (2 * a) @ b.T
        part -= (a**2).sum(axis=1)[:, None]
        part -= (b**2).sum(axis=1)
        part *= _COUNTED_SCALE / len(self.choices)
        np.exp(part, out=part)
        part *= _COUNTED_SHARE
        return part


@dataclass(frozen=True, eq=False)
class GaussianProcess:
    """The posterior, given observations.

    Attributes:
        observed: (n, all choices) architectures in one-hot form.
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
        """(n,) mean and standard deviation of (n, all choices) architectures, noise left out."""
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
        """As if `arch`, (all choices,), had been observed where it is expected to lie."""
        mean = self.predict(arch[None])[0]
        return GaussianProcess(
            self.kernel, np.vstack([self.observed, arch]), np.append(self.values, mean)
        )


def fit_kernel(observed: FloatArray, values: FloatArray, start: Kernel) -> Kernel:
    """The most probable kernel, given observations; from `start` downhill.

    Constant values say nothing: then it is `start`.

    Args:
        observed: (n, all choices), one-hot.
    """
    from scipy.optimize import minimize

    if len(values) < 2 or not np.ptp(values) > 0:
        return start
    parts = np.split(observed, np.cumsum(start.choices)[:-1], axis=1)
    differs = np.stack([1.0 - part @ part.T for part in parts])
    fixed = start.of_counts(observed, observed)
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
    learnt = (1 - _COUNTED_SHARE) * np.exp(-np.tensordot(kernel.weights, differs, axes=1))
    matrix = learnt + fixed + kernel.noise * np.eye(n)
    cholesky: FloatArray = np.asarray(np.linalg.cholesky(matrix), np.float64)
    inverse = _solve(cholesky, np.eye(n))
    alpha = inverse @ values
    quadratic = float(values @ alpha)
    means = np.array([_SCALE[0], *([_WEIGHT[0]] * decisions), _NOISE[0]])
    spreads = np.array([_SCALE[1], *([_WEIGHT[1]] * decisions), _NOISE[1]])
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
