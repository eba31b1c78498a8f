"""Bounds: what a network must hold, on the estimate.

The latency limit is made anew at every use, since a measured candidate corrects the estimator
while a search runs; the others (parameters, multiply-accumulates, memory, file size) stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.estimate import Estimator
from nasdeploy.latency_tables.optimum import Limit
from nasdeploy.search.space import Arch


class Bounds:
    """Every bound of a search.

    Args:
        estimator: Asked at every use; gives the current estimator. None for a search without a
            table: it knows no latencies.
        latency_ms: The bound on the estimate, or None.
        others: Limits that do not change.
    """

    def __init__(
        self,
        estimator: Callable[[], Estimator] | None,
        latency_ms: float | None,
        others: Sequence[Limit] = (),
    ) -> None:
        self._estimator = estimator
        self.latency_ms = latency_ms
        self.others = tuple(others)

    @property
    def has_estimator(self) -> bool:
        return self._estimator is not None

    def estimator(self) -> Estimator:
        """The current one; `UsageError` where there is none."""
        if self._estimator is None:
            raise UsageError(
                "A latency is asked for, and this search has no table: --table pixel1, or measure "
                "one: nasdeploy profile."
            )
        return self._estimator()

    def limits(self) -> tuple[Limit, ...]:
        """Latency first, then the others."""
        if self.latency_ms is None:
            return self.others
        latency = Limit("latency_ms", self.estimator().calibrated, self.latency_ms)
        return (latency, *self.others)

    def known(self, arch: Arch) -> dict[str, float]:
        """What is known of an architecture without evaluating it: the estimate, what is bounded."""
        known = {limit.name: limit.cost.of(arch) for limit in self.others}
        if self.has_estimator:
            known["latency_ms"] = self.estimator().calibrated.of(arch)
        return known

    def admits(self, archs: Sequence[Arch] | npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
        """(n,) whether each of (n, decisions) architectures holds all bounds."""
        population = np.asarray(archs)
        within = np.ones(len(population), dtype=np.bool_)
        for limit in self.limits():
            within &= limit.cost(population) <= limit.at_most
        return within

    def probability(
        self, archs: Sequence[Arch] | npt.NDArray[np.integer]
    ) -> npt.NDArray[np.float64]:
        """(n,) how likely each holds the latency bound when it is measured; 1 without one."""
        if self.latency_ms is None:
            return np.ones(len(archs))
        return self.estimator().probability_within(np.asarray(archs), self.latency_ms)
