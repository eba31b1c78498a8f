"""The price of a limited cost: an upper bound on what any architecture within limits can score.

Lagrangian relaxation (Geoffrion, "Lagrangean relaxation for integer programming", 1974): with a
price on each limited cost, the best score minus priced excess over all architectures, found by
elimination, is at least the best score within the limits. The prices that make this bound lowest
are found by cutting planes (Kelley, "The cutting-plane method for solving convex programs", 1960).
Any prices give a valid bound, so nothing that follows depends on how well they are chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nasdeploy.latency_tables.elimination import FloatArray, Trellis

_ROUNDS = 80
_HIGHEST_PRICE = 1e4  # in whole spreads of the score for a whole spread of the cost
_GAP = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Relaxation:
    """The bound at the best prices.

    Attributes:
        prices: (limits,) at least 0, score per unit of cost.
        ways: For each layer, (states, choices) the priced score of an edge and its best way on.
        bound: No architecture within the limits scores more; minus infinity if there is none.
        tolerance: What rounding may have added to or taken from any of these.
    """

    prices: FloatArray
    ways: list[FloatArray]
    bound: float
    tolerance: float


def relax(
    trellis: Trellis,
    scores: Sequence[FloatArray],
    spent: Sequence[Sequence[FloatArray]],
    room: Sequence[float],
    *,
    floor: float,
    shares: bool = False,
) -> Relaxation:
    """The lowest bound on the score of what spends at most `room`.

    With no scores and `shares` it is the most room, over all architectures, that a weighted mean
    of the limits leaves, for the weights that leave the least: one limit in place of several, and
    the tightest that they imply.

    Args:
        scores: For each layer, (states, choices); minus infinity forbids an edge.
        spent: For each limit and layer, (states, choices).
        room: For each limit, the most that may be spent.
        floor: No architecture scores less; a bound below it proves that there is none.
        shares: The prices are weights that sum to 1, in spreads of their costs.
    """
    limits = len(spent)
    score_unit = _spread(scores)
    units = np.array([_spread(edges) for edges in spent])
    rooms = np.array(room, np.float64)
    size = _magnitude(scores) + abs(floor)
    sizes = np.array([_magnitude(edges) for edges in spent]) + np.abs(rooms)
    cuts: list[FloatArray] = []
    prices = np.full(limits, score_unit / limits) / units if shares else np.zeros(limits)
    best: Relaxation | None = None
    for _ in range(_ROUNDS):
        priced = [
            score - sum(price * edges[layer] for price, edges in zip(prices, spent, strict=True))
            for layer, score in enumerate(scores)
        ]
        ways, value = trellis.to_go(priced, "sum", "max")
        bound = value + float(prices @ rooms)
        tolerance = 1e-12 * (size + float(prices @ sizes))
        if best is None or bound < best.bound:
            best = Relaxation(prices, ways, bound, tolerance)
        if not limits or bound < floor - tolerance:
            break
        arch = trellis.path(ways, "max")
        excess = np.array([trellis.total(edges, arch) for edges in spent]) - rooms
        cuts.append(np.append(excess / units, trellis.total(scores, arch) / score_unit))
        lowest, normed = _lowest_point(np.array(cuts), shares=shares)
        if best.bound / score_unit - lowest <= _GAP * (1 + abs(lowest)):
            break
        prices = normed * score_unit / units
    assert best is not None
    return best


def _lowest_point(cuts: FloatArray, *, shares: bool) -> tuple[float, FloatArray]:
    """Lowest value and place of the highest of some planes; (cuts, limits + 1) slope and height."""
    from scipy.optimize import linprog

    slopes, heights = cuts[:, :-1], cuts[:, -1]
    limits = slopes.shape[1]
    answer = linprog(
        np.append(np.zeros(limits), 1.0),
        A_ub=np.column_stack([-slopes, -np.ones(len(cuts))]),
        b_ub=-heights,
        A_eq=[[1.0] * limits + [0.0]] if shares else None,
        b_eq=[1.0] if shares else None,
        bounds=[(0.0, _HIGHEST_PRICE)] * limits + [(None, None)],
        method="highs",
    )
    if answer.x is None:
        raise RuntimeError(f"The prices of the limits could not be found: {answer.message}")
    return float(answer.x[-1]), np.maximum(answer.x[:-1], 0.0)


def _spread(layers: Sequence[FloatArray]) -> float:
    """Highest minus lowest, summed over the layers; 1 where nothing varies."""
    total = 0.0
    for edges in layers:
        finite = edges[np.isfinite(edges)]
        total += float(np.ptp(finite)) if finite.size else 0.0
    return total or 1.0


def _magnitude(layers: Sequence[FloatArray]) -> float:
    return sum(float(np.abs(edges[np.isfinite(edges)]).max(initial=0.0)) for edges in layers)
