"""The best architectures within every limit, exactly; and what to say when there are none."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from nasdeploy.errors import NothingWithinBounds, OutOfResources
from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.latency_tables.elimination import Arch, FloatArray, Term
from nasdeploy.latency_tables.knapsack import Problem
from nasdeploy.units import format_bytes, format_count, format_ms

_FIRST_BEAM = 64
_WIDEST_BEAM = 2**21


@dataclass(frozen=True, slots=True)
class Limit:
    """A bound on one cost.

    Attributes:
        name: With the unit in it: ``"latency_ms"``, ``"params"``, ``"memory_bytes"``.
        at_most: In the unit of `cost`; an architecture at exactly this cost holds it.
    """

    name: str
    cost: CompiledCost
    at_most: float

    def __post_init__(self) -> None:
        if math.isnan(self.at_most):
            raise ValueError(f"The limit on {self.name} is not a number")

    def __str__(self) -> str:
        return f"{_word(self.name)} at most {_show(self.name, self.at_most)}"


def best_within(
    scores: Sequence[FloatArray],
    limits: Sequence[Limit],
    *,
    n: int = 1,
    exclude: Collection[Arch] = frozenset(),
) -> list[Arch]:
    """The `n` architectures with the highest sum of scores among those within every limit.

    Args:
        scores: For each decision, (choices,) finite scores such as log-probabilities.
        limits: Any number, of sums and of maxima.
        exclude: Architectures that are not wanted, such as those already measured.
    Returns: Best first, of equal scores the smallest tuple first; fewer than `n` if there are no
        more, none if the limits exclude each other (`check_limits` says which).
    Raises: `OutOfResources` if the problem is too hard to be solved exactly.
    """
    choices = [len(score) for score in scores]
    tables: list[Term] = [
        ((decision,), np.asarray(score, np.float64)) for decision, score in enumerate(scores)
    ]
    return highest_within(CompiledCost.of_tables(tables, choices), limits, n=n, exclude=exclude)


def highest_within(
    objective: CompiledCost,
    limits: Sequence[Limit],
    *,
    n: int = 1,
    exclude: Collection[Arch] = frozenset(),
) -> list[Arch]:
    """As `best_within`, for an objective whose terms may look at several decisions."""
    if objective.reduce != "sum":
        raise ValueError("The objective is a sum; lowest_within minimises a maximum")
    for limit in limits:
        if limit.cost.choices != objective.choices:
            raise ValueError(f"The limit on {limit.name} belongs to another space")
    if n < 1 or any(limit.cost.range().low > limit.at_most for limit in limits):
        return []
    problem = Problem(objective, [(limit.cost, limit.at_most) for limit in limits])
    if problem.proves_empty():
        return []
    wanted = n + len(exclude)
    beam = max(_FIRST_BEAM, 4 * wanted)
    last: Arch | None = None
    while True:
        found, exact = problem.sweep(wanted, beam, last)
        best = [arch for arch in found if arch not in exclude][:n]
        if exact:
            return best
        if beam >= _WIDEST_BEAM:
            raise OutOfResources(
                f"{len(limits)} limits over {len(objective.choices)} decisions leave more than "
                f"{beam} partial architectures to compare: too many to find the exact optimum. "
                "Loosen or drop a limit."
            )
        if len(best) == n:
            last = best[-1]
        beam = min(8 * beam, _WIDEST_BEAM)


def lowest_within(cost: CompiledCost, limits: Sequence[Limit]) -> tuple[float, Arch] | None:
    """The lowest cost within the limits and the architecture that has it; None if there is none."""
    if cost.reduce == "sum":
        best = highest_within(cost.affine(-1.0, 0.0), limits)
        return (cost.of(best[0]), best[0]) if best else None
    # The lowest maximum is one of the costs: search them for the first that can be held.
    nothing = CompiledCost.of_tables([], cost.choices)
    values = np.unique(np.concatenate([table.ravel() for _, table in cost.terms]))
    low, high, arch = 0, len(values), None
    while low < high:
        middle = (low + high) // 2
        best = highest_within(nothing, [*limits, Limit("", cost, float(values[middle]))])
        if best:
            high, arch = middle, best[0]
        else:
            low = middle + 1
    return (cost.of(arch), arch) if arch is not None else None


def check_limits(limits: Sequence[Limit]) -> None:
    """Return if some architecture is within every limit.

    Raises: `NothingWithinBounds` if a limit lies below what the space can reach (with the range),
        or if limits exclude each other (with what each could be while the others hold).
    """
    for limit in limits:
        reach = limit.cost.range()
        if reach.low > limit.at_most:
            raise NothingWithinBounds(
                f"No network of the space has {limit}: it reaches from "
                f"{_show_low(limit.name, reach.low)} to {_show(limit.name, reach.high)}. "
                "Raise the bound."
            )
    for size in range(2, len(limits) + 1):
        for together in itertools.combinations(limits, size):
            best = lowest_within(together[0].cost, together[1:])
            if best is None or best[0] > together[0].at_most:
                raise NothingWithinBounds(_conflict(together))


def _conflict(limits: Sequence[Limit]) -> str:
    """What each of limits that exclude each other could be, were it not for the others."""
    instead = []
    for limit in limits:
        others = [other for other in limits if other is not limit]
        best = lowest_within(limit.cost, others)
        if best is not None:
            instead.append(
                f"with {' and '.join(map(str, others))}, {_word(limit.name)} is at least "
                f"{_show_low(limit.name, best[0])}"
            )
    return (
        f"The bounds {' and '.join(map(str, limits))} exclude each other: {'; '.join(instead)}. "
        "Raise one of them."
    )


_UNITS = {"_ms": format_ms, "_bytes": format_bytes}


def _word(name: str) -> str:
    for suffix in _UNITS:
        name = name.removesuffix(suffix)
    return name.replace("_", " ")


def _show(name: str, value: float) -> str:
    for suffix, show in _UNITS.items():
        if name.endswith(suffix):
            return show(value)
    return format_count(value)


def _show_low(name: str, value: float) -> str:
    """Rounded up, so that the number shown is one that can be reached."""
    if value <= 0:
        return _show(name, value)
    digits = 4 if name.endswith("_ms") else 3
    step = 10.0 ** (math.floor(math.log10(value)) + 1 - digits)
    return _show(name, math.ceil(value / step - 1e-9) * step)
