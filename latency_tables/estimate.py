"""Milliseconds of a network from the milliseconds of its operators, with an interval.

The sum of a network's operators is biased: caches are warm inside a network and cold between
measurements, runtimes fuse across blocks, and every run has a fixed cost. So the estimate is
``scale * sum`` with a correction or two (`calibration`), fitted on *anchors*, whole networks
measured on the same device, by least squares on relative errors.

A network that a search measured joins the fit as an anchor that counts as much as all of the
table's together. It lies where the search is, and the networks that come next share most of its
blocks and so most of its error, while the table's anchors are elsewhere. The line bends towards it
where it lies: by half of the way where the table has anchors of that speed, by nearly all of it
where the search has gone further than they reach and the line was a guess.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.calibration import (
    ELEMENTS,
    OFFSET,
    OPERATORS,
    POOLED,
    UNFITTED,
    Columns,
    Fit,
    choose_form,
    fit_form,
    leave_one_out,
)
from nasdeploy.latency_tables.cost import CompiledCost, CostTerm, Range
from nasdeploy.latency_tables.elimination import Arch, FloatArray, Term
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.latency_tables.rows import Anchor
from nasdeploy.latency_tables.table import LatencyTable

_ENOUGH_TO_CHOOSE = 3


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


@dataclass(frozen=True)
class Estimator:
    """Latency of architectures; immutable.

    Attributes:
        cost: The plain sum of the operators, milliseconds.
        anchors: Networks to fit on, in the order in which they were measured.
        statistic: By which statistic operators and anchors were taken.
        corrections: By the names of `calibration`, what there is of each in an architecture.
    """

    cost: CompiledCost
    anchors: tuple[Measured, ...] = ()
    statistic: str = "median"
    corrections: Mapping[str, CompiledCost] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for anchor in self.anchors:
            if not (np.isfinite(anchor.ms) and anchor.ms > 0):
                raise UsageError(
                    f"The network {list(anchor.arch)} took {anchor.ms} ms, which is no latency. "
                    "Measure it again: nasdeploy bench"
                )

    @property
    def scale(self) -> float:
        return float(self._fit.parameters[0])

    @property
    def coefficients(self) -> Mapping[str, float]:
        """Of the corrections that were fitted, milliseconds for one of each."""
        return self._fit.coefficients

    @cached_property
    def calibrated(self) -> CompiledCost:
        """Sum and corrections in one, milliseconds."""
        return self._calibrated_by(self._fit)

    def _calibrated_by(self, fit: Fit) -> CompiledCost:
        terms: list[Term] = [(d, table * fit.parameters[0]) for d, table in self.cost.terms]
        for name, coefficient in fit.coefficients.items():
            if name == OFFSET:
                terms.append(((), np.array(coefficient)))
            else:
                terms += [(d, table * coefficient) for d, table in self.corrections[name].terms]
        return CompiledCost.of_tables(terms, self.cost.choices)

    def __call__(self, arch: Arch) -> Estimate:
        ms = self.calibrated.of(arch)
        fit = self._fit
        if fit.sigma is None:
            return Estimate(ms, None, None)
        from scipy.special import stdtrit

        leverage = float(fit.leverage(self._columns([arch]), np.array([ms]))[0])
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

        leverage = fit.leverage(self._columns(archs), ms)
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
        errors = leave_one_out(self._of_anchors, self._ms, self._weights, self._form)
        return tuple(errors.tolist())

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
        for name, coefficient in self.coefficients.items():
            each = "" if name == OFFSET else f" x {name}"
            line += f" {'-' if coefficient < 0 else '+'} {abs(coefficient):.3g} ms{each}"
        if not self.loo_errors:
            return f"{line}, interval unknown"
        return f"{line}, leave-one-out median error {statistics.median(self.loo_errors):.2%}"

    def _columns(self, archs: npt.NDArray[np.integer] | Sequence[Arch]) -> Columns:
        """What is fitted, for each architecture."""
        others = {name: cost(archs) for name, cost in self.corrections.items()}
        return {"sum": self.cost(archs), OFFSET: np.ones(len(archs)), **others}

    @cached_property
    def _of_anchors(self) -> Columns:
        return self._columns([anchor.arch for anchor in self.anchors])

    @cached_property
    def _ms(self) -> FloatArray:
        return np.array([anchor.ms for anchor in self.anchors])

    @cached_property
    def _weights(self) -> FloatArray:
        of_table = sum(not anchor.during_search for anchor in self.anchors)
        return np.array([max(1.0, of_table) if a.during_search else 1.0 for a in self.anchors])

    @cached_property
    def _form(self) -> tuple[str, ...]:
        """What is fitted, chosen on the table's own anchors: a search does not change it."""
        own = np.array([not anchor.during_search for anchor in self.anchors])
        if own.sum() < _ENOUGH_TO_CHOOSE:
            own[:] = True
        columns = {name: column[own] for name, column in self._of_anchors.items()}
        return choose_form(columns, self._ms[own], self._weights[own], self._makes_sense)

    def _makes_sense(self, fit: Fit) -> bool:
        """The scale is positive, and no network of the space takes less than nothing."""
        return bool(fit.parameters[0] > 0) and self._calibrated_by(fit).range().low > 0

    @cached_property
    def _fit(self) -> Fit:
        if not self.anchors:
            return UNFITTED
        for form in (self._form, ()):
            fit = fit_form(self._of_anchors, self._ms, self._weights, form)
            if not form or self._makes_sense(fit):
                break
        return fit


def corrections_of(terms: Sequence[CostTerm], choices: Sequence[int]) -> dict[str, CompiledCost]:
    """What `calibration` may fit beside the sum: how many elements go into operators, and into
    pools, and how many operators there are."""
    keys = {text: OpKey.parse(text) for term in terms for text in term.keys}
    elements = {
        text: float(sum(math.prod(shape) for shape in key.input_shapes))
        for text, key in keys.items()
    }
    pooled = {
        text: elements[text] if key.kind.endswith("_pool") else 0.0 for text, key in keys.items()
    }
    counted = {ELEMENTS: elements, POOLED: pooled, OPERATORS: dict.fromkeys(keys, 1.0)}
    return {
        name: CompiledCost.compile(terms, values, choices, what=f"number of {name}")
        for name, values in counted.items()
    }


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
    terms = tuple(terms)
    threads = f" --threads {table.threads}" if table.threads is not None else ""
    cost = CompiledCost.compile(
        terms,
        table.values(statistic),
        choices,
        what=f"row in the table {table}",
        hint=f"Measure them: nasdeploy profile --device {table.device} --runtime {table.runtime} "
        f"--precision {table.precision}{threads}",
    )
    corrections = corrections_of(terms, choices)
    wanted = _comparable(deployment)
    anchors = [
        Measured(tuple(anchor.arch), _anchor_ms(anchor, statistic, table))
        for anchor in table.anchors
        if anchor.space == space_name and _comparable(anchor.deployment) == wanted
    ]
    return Estimator(cost, tuple(anchors), statistic, corrections)


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
