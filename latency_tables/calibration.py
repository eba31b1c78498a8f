"""From sums of operators to latencies of networks: what is fitted on measured networks.

A sum of operators is off in a few ways, each of which is a cost of its own that comes from the
terms of a space. Which of them a runtime shows is seen on the anchors:

* ``offset``: what a call costs whatever it runs, the same for every network;
* ``elements``: what an operator's file does at its edges and a network does not, such as bringing
  its inputs into the layout of its kernels: so much for each element that goes in;
* ``pooled``: the same for pools alone, which compute least for what they read;
* ``operators``: what a file by itself costs beside that, and what a runtime saves by joining it to
  its neighbours: so much for each operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.elimination import FloatArray

OFFSET, ELEMENTS, POOLED, OPERATORS = "offset", "elements", "pooled", "operators"
FORMS: tuple[tuple[str, ...], ...] = (
    (ELEMENTS,), (POOLED,), (ELEMENTS, OPERATORS), (ELEMENTS, POOLED), (OFFSET,),
)  # fmt: skip
"""What is fitted beside the scale, one of these; an earlier one is preferred."""

_CLEARLY_BETTER = 0.75
_LEAST_SPREAD = 1.05
_LEAST_INDEPENDENCE = 0.004  # of the smallest singular value by the largest, columns of length 1

Columns = Mapping[str, FloatArray]
"""The sums, under ``"sum"``, and each correction by its name: (n,) for n networks."""


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """``scale * sum`` and the corrections, and what is needed for an interval.

    Attributes:
        form: Names of the corrections.
        parameters: The scale, and milliseconds for one of each correction.
        sigma: Standard deviation of the relative residuals; None if no residual is left over.
        freedom: Networks minus fitted parameters.
        spread: Covariance of the parameters for a sigma of 1.
    """

    form: tuple[str, ...]
    parameters: FloatArray
    sigma: float | None
    freedom: int
    spread: FloatArray

    def of(self, columns: Columns) -> FloatArray:
        """(n,) milliseconds."""
        return np.asarray(_stacked(columns, self.form) @ self.parameters)

    def leverage(self, columns: Columns, ms: FloatArray) -> FloatArray:
        """(n,) how far the parameters' own error reaches, for a sigma of 1."""
        design = _stacked(columns, self.form) / ms[:, None]
        return np.asarray(np.einsum("ni,ij,nj->n", design, self.spread, design))

    @property
    def coefficients(self) -> dict[str, float]:
        """Of the corrections, milliseconds for one of each."""
        return dict(zip(self.form, map(float, self.parameters[1:]), strict=True))


UNFITTED = Fit((), np.ones(1), None, 0, np.zeros((1, 1)))


def fit_form(columns: Columns, ms: FloatArray, weights: FloatArray, form: tuple[str, ...]) -> Fit:
    """Weighted least squares on relative errors.

    Raises: `UsageError` if the operators of a network take no time.
    """
    sums = columns["sum"]
    if sums.min() <= 0:
        raise UsageError(
            f"The operators of a measured network take {sums.min()} ms together, which is no "
            "latency. Measure them again: nasdeploy profile"
        )
    design = _stacked(columns, form) / ms[:, None]
    inverse = np.linalg.inv(design.T @ (weights[:, None] * design))
    parameters = inverse @ (design.T @ weights)
    residuals = design @ parameters - 1
    freedom = len(ms) - len(parameters)
    # The weights say where the line has to be right, not how exactly a network was measured, so
    # each residual counts once, and the parameters' covariance is the sandwich of both.
    spread = inverse @ (design.T @ (weights[:, None] ** 2 * design)) @ inverse
    sigma = float(np.sqrt(residuals @ residuals / freedom)) if freedom else None
    return Fit(form, parameters, sigma, freedom, spread)


def choose_form(
    columns: Columns,
    ms: FloatArray,
    weights: FloatArray,
    makes_sense: Callable[[Fit], bool],
) -> tuple[str, ...]:
    """The first form that the networks can tell apart, or a later one that is clearly better.

    What an operator does at its edges also holds for networks that are faster than all anchors,
    which is where searches go; an offset that was fitted on slower ones does not. So an offset is
    taken only where nothing else can be, and more parameters only where they lower the mean
    leave-one-out error by a quarter.

    Args:
        makes_sense: Whether the scale is positive and no network takes less than nothing.
    """
    best: tuple[float, tuple[str, ...]] | None = None
    for form in FORMS:
        if form == (OFFSET,) and best is not None:
            break
        if not set(form) <= columns.keys() or not _can_be_told(columns, ms, form):
            continue
        if not makes_sense(fit_form(columns, ms, weights, form)):
            continue
        error = float(np.mean(leave_one_out(columns, ms, weights, form)))
        if best is None or error < best[0] * _CLEARLY_BETTER:
            best = (error, form)
    return best[1] if best else ()


def leave_one_out(
    columns: Columns, ms: FloatArray, weights: FloatArray, form: tuple[str, ...]
) -> FloatArray:
    """Relative error on each network, fitted on the others; at least two."""
    errors = []
    for left_out in range(len(ms)):
        rest = np.arange(len(ms)) != left_out
        kept = {name: column[rest] for name, column in columns.items()}
        told = form if _can_be_told(kept, ms[rest], form) else ()
        fit = fit_form(kept, ms[rest], weights[rest], told)
        one = {name: column[left_out : left_out + 1] for name, column in columns.items()}
        errors.append(abs(float(fit.of(one)[0] / ms[left_out]) - 1))
    return np.array(errors)


def _can_be_told(columns: Columns, ms: FloatArray, form: tuple[str, ...]) -> bool:
    """Whether there are enough networks, unlike enough, to fit a form on them."""
    if len(ms) < len(form) + 2:
        return False
    sums = columns["sum"]
    if form == (OFFSET,):
        return bool(sums.max() > _LEAST_SPREAD * sums.min())
    design = _stacked(columns, form) / ms[:, None]
    lengths = np.linalg.norm(design, axis=0)
    if not lengths.all():
        return False
    singular = np.linalg.svd(design / lengths, compute_uv=False)
    return bool(singular[-1] > _LEAST_INDEPENDENCE * singular[0])


def _stacked(columns: Columns, form: Sequence[str]) -> FloatArray:
    """(n, parameters)"""
    return np.stack([columns["sum"], *(columns[name] for name in form)], axis=-1)
