"""Milliseconds of a network from the milliseconds of its operators, with an interval.

The sum of a network's operators is biased: caches are warm inside a network and cold between
measurements, runtimes fuse across blocks, and every run has a fixed cost. So the estimate is
``scale * sum + offset``, fitted on *anchors*, whole networks measured on the same device, by least
squares on relative errors.

A network that a search measured joins the fit as an anchor that counts as much as all of the
table's together. It lies where the search is, and the networks that come next share most of its
blocks and so most of its error, while the table's anchors are elsewhere. The line bends towards it
where it lies: by half of the way where the table has anchors of that speed, by nearly all of it
where the search has gone further than they reach and the line was a guess.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.cost import CompiledCost, CostTerm, Range
from nasdeploy.latency_tables.elimination import Arch, FloatArray
from nasdeploy.latency_tables.rows import Anchor
from nasdeploy.latency_tables.table import LatencyTable

_LEAST_SPREAD = 1.05


@dataclass(frozen=True, slots=True)
class Estimate:
    """Milliseconds; between `low_ms` and `high_ms` lies a new measurement 95 times in a hundred.

    The ends are None where too few networks were measured to know.
    """

    ms: float
    low_ms: float | None
    high_ms: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """A whole network, and what it took."""

    arch: Arch
    ms: float
    during_search: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class _Fit:
    """``scale * sum + offset``, and what is needed for an interval.

    Attributes:
        sigma: Standard deviation of the relative residuals; None if no residual is left over.
        freedom: Networks minus fitted parameters.
        spread: Covariance of the parameters for a sigma of 1.
    """

    scale: float
    offset: float
    with_offset: bool
    sigma: float | None
    freedom: int
    spread: FloatArray


@dataclass(frozen=True)
class Estimator:
    """Latency of architectures; immutable.

    Attributes:
        cost: The plain sum of the operators, milliseconds.
        anchors: Networks to fit on, in the order in which they were measured.
        statistic: By which statistic operators and anchors were taken.
    """

    cost: CompiledCost
    anchors: tuple[Measured, ...] = ()
    statistic: str = "median"

    def __post_init__(self) -> None:
        for anchor in self.anchors:
            if not (np.isfinite(anchor.ms) and anchor.ms > 0):
                raise UsageError(
                    f"The network {list(anchor.arch)} took {anchor.ms} ms, which is no latency. "
                    "Measure it again: nasdeploy bench"
                )

    @property
    def scale(self) -> float:
        return self._fit.scale

    @property
    def offset(self) -> float:
        """Milliseconds."""
        return self._fit.offset

    @cached_property
    def calibrated(self) -> CompiledCost:
        """``scale * sum + offset``, milliseconds."""
        return self.cost.affine(self.scale, self.offset)

    def __call__(self, arch: Arch) -> Estimate:
        ms = self.calibrated.of(arch)
        fit = self._fit
        if fit.sigma is None:
            return Estimate(ms, None, None)
        from scipy.special import stdtrit

        design = _design(np.array([self.cost.of(arch)]), np.array([ms]), fit.with_offset)[0]
        leverage = float(design @ fit.spread @ design)
        half = float(stdtrit(fit.freedom, 0.975)) * fit.sigma * (1 + leverage) ** 0.5
        return Estimate(ms, max(0.0, ms * (1 - half)), ms * (1 + half))

    def probability_within(
        self, archs: npt.NDArray[np.integer] | Sequence[Arch], limit_ms: float
    ) -> FloatArray:
        """(n,) how likely a measurement of each architecture is at most `limit_ms`.

        Where too few networks were measured to know, it is 1 or 0, as the estimate says.
        """
        ms = self.calibrated(archs)
        fit = self._fit
        if not fit.sigma:
            return (ms <= limit_ms).astype(np.float64)
        from scipy.special import stdtr

        design = _design(self.cost(archs), ms, fit.with_offset)
        leverage = np.einsum("ni,ij,nj->n", design, fit.spread, design)
        away = (limit_ms / ms - 1) / (fit.sigma * np.sqrt(1 + leverage))
        probability: FloatArray = stdtr(fit.freedom, away)
        return probability

    def population(self, archs: npt.NDArray[np.integer] | Sequence[Arch]) -> FloatArray:
        """(n,) milliseconds of (n, decisions) architectures."""
        return self.calibrated(archs)

    def range(self) -> Range:
        """The exact range of the estimate over the space, milliseconds."""
        return self.calibrated.range()

    def with_anchor(self, arch: Arch, ms: float) -> Estimator:
        """The estimator corrected by a network that was measured during a search."""
        return replace(self, anchors=(*self.anchors, Measured(tuple(arch), ms, True)))

    @cached_property
    def loo_errors(self) -> tuple[float, ...]:
        """Leave-one-out: relative error on each anchor, fitted on the others; at least two."""
        if len(self.anchors) < 2:
            return ()
        errors = []
        for left_out in range(len(self.anchors)):
            rest = [n for n in range(len(self.anchors)) if n != left_out]
            fit = _fit(self._sums[rest], self._ms[rest], self._weights[rest], self._lowest)
            ms = fit.scale * self._sums[left_out] + fit.offset
            errors.append(abs(float(ms / self._ms[left_out]) - 1))
        return tuple(errors)

    def describe(self) -> str:
        """One line for people."""
        count = len(self.anchors)
        if not count:
            return "no networks measured: the plain sum of operators, interval unknown"
        networks = f"{count} network{'s' if count > 1 else ''}"
        searched = sum(anchor.during_search for anchor in self.anchors)
        if searched:
            networks += f" ({searched} measured during the search)"
        line = f"fitted on {networks}: {self.scale:.4g} x sum"
        if self._fit.with_offset:
            line += f" {'-' if self.offset < 0 else '+'} {abs(self.offset):.3g} ms"
        if not self.loo_errors:
            return f"{line}, interval unknown"
        return f"{line}, leave-one-out median error {statistics.median(self.loo_errors):.2%}"

    @cached_property
    def _sums(self) -> FloatArray:
        return self.cost([anchor.arch for anchor in self.anchors])

    @cached_property
    def _ms(self) -> FloatArray:
        return np.array([anchor.ms for anchor in self.anchors])

    @cached_property
    def _weights(self) -> FloatArray:
        of_table = sum(not anchor.during_search for anchor in self.anchors)
        return np.array([max(1.0, of_table) if a.during_search else 1.0 for a in self.anchors])

    @cached_property
    def _lowest(self) -> float:
        return self.cost.range().low

    @cached_property
    def _fit(self) -> _Fit:
        if not self.anchors:
            return _Fit(1.0, 0.0, False, None, 0, np.zeros((1, 1)))
        return _fit(self._sums, self._ms, self._weights, self._lowest)


def _design(sums: FloatArray, ms: FloatArray, with_offset: bool) -> FloatArray:
    """(n, parameters) what the parameters are multiplied by, as a share of the latency."""
    columns = [sums / ms, 1 / ms] if with_offset else [sums / ms]
    return np.stack(columns, axis=-1)


def _fit(sums: FloatArray, ms: FloatArray, weights: FloatArray, lowest: float) -> _Fit:
    """Weighted least squares on relative errors.

    An offset is fitted from three networks on, if their sums differ by more than 5 %, since it
    cannot be told from the scale otherwise, and if beside it the scale is positive and no network
    of the space, down to the one with the `lowest` sum, takes less than nothing.
    """
    if sums.min() <= 0:
        raise UsageError(
            f"The operators of a measured network take {sums.min()} ms together, which is no "
            "latency. Measure them again: nasdeploy profile"
        )
    if len(ms) >= 3 and sums.max() > _LEAST_SPREAD * sums.min():
        fit = _solve(sums, ms, weights, with_offset=True)
        if fit.scale > 0 and fit.scale * lowest + fit.offset > 0:
            return fit
    return _solve(sums, ms, weights, with_offset=False)


def _solve(sums: FloatArray, ms: FloatArray, weights: FloatArray, *, with_offset: bool) -> _Fit:
    design = _design(sums, ms, with_offset)
    inverse = np.linalg.inv(design.T @ (weights[:, None] * design))
    parameters = inverse @ (design.T @ weights)
    residuals = design @ parameters - 1
    freedom = len(ms) - len(parameters)
    # The weights say where the line has to be right, not how exactly a network was measured, so
    # each residual counts once, and the parameters' covariance is the sandwich of both.
    spread = inverse @ (design.T @ (weights[:, None] ** 2 * design)) @ inverse
    return _Fit(
        scale=float(parameters[0]),
        offset=float(parameters[1]) if with_offset else 0.0,
        with_offset=with_offset,
        sigma=float(np.sqrt(residuals @ residuals / freedom)) if freedom else None,
        freedom=freedom,
        spread=spread,
    )


def estimator_for(
    table: LatencyTable,
    space_name: str,
    deployment: Mapping[str, Any],
    terms: Iterable[CostTerm],
    choices: Sequence[int],
    *,
    statistic: str | None = None,
) -> Estimator:
    """The estimator of a space on a table, fitted on the table's anchors of that deployment.

    Args:
        deployment: ``{"input_shape": ..., "classes": ...}``, as anchors record it.
        terms, choices: Of the space.
        statistic: The table's default if None.
    Raises: `UsageError` if the table lacks the statistic or an operator.
    """
    if statistic is None:
        statistic = table.default_statistic
    threads = f" --threads {table.threads}" if table.threads is not None else ""
    cost = CompiledCost.compile(
        terms,
        table.values(statistic),
        choices,
        what=f"row in the table {table}",
        hint=f"Measure them: nasdeploy profile --device {table.device} --runtime {table.runtime} "
        f"--precision {table.precision}{threads}",
    )
    wanted = _comparable(deployment)
    anchors = [
        Measured(tuple(anchor.arch), _anchor_ms(anchor, statistic, table))
        for anchor in table.anchors
        if anchor.space == space_name and _comparable(anchor.deployment) == wanted
    ]
    return Estimator(cost, tuple(anchors), statistic)


def _anchor_ms(anchor: Anchor, statistic: str, table: LatencyTable) -> float:
    try:
        return anchor.statistics.value(statistic)
    except UsageError as error:
        raise UsageError(f"The anchor {list(anchor.arch)} of the table {table}: {error}") from error


def _comparable(value: Any) -> Any:
    """Equal for equal plain data, whether its sequences are lists or tuples."""
    if isinstance(value, Mapping):
        return {name: _comparable(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_comparable(entry) for entry in value]
    return value
