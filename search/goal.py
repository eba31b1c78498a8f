"""What a search is after: the metric alone, the metric against costs as one number, or a front.

The loss in place of the metric is the same aim, seen through more of an image than right or wrong:
where validation images are few and networks alike, many have the same accuracy and hardly two the
same loss.

MnasNet's product (Tan et al., CVPR 2019, arXiv:1807.11626, equation 2), the additive form with a
hinge (as Bender et al., "TuNAS", CVPR 2020, arXiv:2008.06120, section 3.3, whose absolute value
also punishes networks below the target), weights, and Pareto. Costs are known exactly from the
estimate before anything is evaluated; only the metric has to be learnt.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from nasdeploy.errors import UsageError
from nasdeploy.search.space import Arch

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]
Cost = Callable[[IntArray], FloatArray]
Form = Literal["metric", "loss", "product", "additive", "weights", "pareto"]
FORMS: tuple[Form, ...] = ("metric", "loss", "product", "additive", "weights", "pareto")
WITHOUT_COSTS: tuple[Form, ...] = ("metric", "loss")
LOSS = "loss"  # the metric that every task's `evaluate` has beside its own


@dataclass(frozen=True)
class Preference:
    """What part of a front is wanted: each objective's interval; a point where its ends meet.

    Attributes:
        intervals: By objective, (low, high) in its own unit. A trial outside of one is behind every
            trial that is nearer to it.
    """

    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def distance(self, metrics: Mapping[str, float]) -> float:
        """The sum of how far each objective is outside, as a share of the nearer end."""
        away = 0.0
        for name, (low, high) in self.intervals.items():
            value = metrics[name]
            end = low if value < low else high if value > high else value
            away += abs(value - end) / max(abs(end), 1e-12)
        return away


@dataclass(frozen=True)
class Goal:
    """
    Attributes:
        metric: Of the task; higher is better.
        form: How metric and costs are weighed against each other.
        costs: By name with its unit, what computes it of (n, decisions) architectures; lower is
            better. None for ``metric`` and ``loss``, one or more for the other forms.
        targets: For ``product`` and ``additive``, what each cost should be at most.
        weights: ``product``: the exponent above the target, below 0. ``additive``: taken off for
            each share by which the cost is above its target, above 0. ``weights``: what a unit of
            each costs, and of the metric where it is not 1.
        preference: ``pareto`` only.
    Raises: `UsageError` for a form that lacks what it needs.
    """

    metric: str
    form: Form = "metric"
    costs: Mapping[str, Cost] = field(default_factory=dict)
    targets: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    preference: Preference = Preference()

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise UsageError(f"{self.form!r} is no form of a goal: {', '.join(FORMS)}.")
        if self.form not in WITHOUT_COSTS and not self.costs:
            raise UsageError(f"A goal of the form {self.form} weighs {self.metric} against a cost.")
        if self.form in ("product", "additive"):
            for name in self.costs:
                if not self.targets.get(name, 0) > 0:
                    raise UsageError(f"A goal of the form {self.form} needs a target of {name}.")
        unknown = {*self.targets, *self.weights, *self.preference.intervals}
        unknown -= {self.metric, *self.costs}
        if unknown:
            raise UsageError(f"{sorted(unknown)[0]} is no objective of this goal.")

    @property
    def several(self) -> bool:
        """Whether the outcome is a front."""
        return self.form == "pareto"

    @property
    def objectives(self) -> tuple[str, ...]:
        """The metric, then the costs."""
        return (self.metric, *self.costs)

    def score(self, metrics: Mapping[str, float]) -> float:
        """One number, higher is better; of a front it is the metric."""
        if self.form == "loss":
            return -metrics[LOSS]
        value = metrics[self.metric]
        if self.form == "product":
            for name in self.costs:
                share = metrics[name] / self.targets[name]
                value *= max(share, 1.0) ** self.weights.get(name, -1.0)
        elif self.form == "additive":
            for name in self.costs:
                share = metrics[name] / self.targets[name]
                value -= self.weights.get(name, 1.0) * max(share - 1.0, 0.0)
        elif self.form == "weights":
            value *= self.weights.get(self.metric, 1.0)
            value -= sum(self.weights.get(name, 1.0) * metrics[name] for name in self.costs)
        return value

    def vector(self, metrics: Mapping[str, float]) -> tuple[float, ...]:
        """One number for each objective, lower is better."""
        return (-metrics[self.metric], *(metrics[name] for name in self.costs))

    def costs_of(self, archs: Sequence[Arch] | IntArray) -> FloatArray:
        """(n, costs) of (n, decisions) architectures."""
        population = np.asarray(archs)
        columns = [cost(population) for cost in self.costs.values()]
        return np.stack(columns, axis=1) if columns else np.zeros((len(population), 0))

    def usable(self, metrics: Mapping[str, float]) -> bool:
        """Whether all objectives are there and finite."""
        needed = (*self.objectives, LOSS) if self.form == "loss" else self.objectives
        return all(math.isfinite(metrics.get(name, math.nan)) for name in needed)
