"""The best architectures within every limit, exactly.

The scores and the limited costs are sums over terms, so this is a multiple-choice knapsack problem
with one or several resources (Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, chapter 11),
where in addition a cost may look at several decisions. It is solved by dynamic programming over
the decisions, kept small by two prunings that lose nothing:

* dominance: a partial architecture goes when enough others are at least as good in the score and
  in every limited cost, whatever follows;
* bounds: it goes when even the best way on cannot hold a limit, or when the Lagrangian bound on
  its score lies below the best that is already known.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nasdeploy.errors import OutOfResources
from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.latency_tables.elimination import Arch, FloatArray, IntArray, Term, Trellis
from nasdeploy.latency_tables.relaxation import Relaxation, relax

_FIRST_BEAM = 64
_WIDEST_BEAM = 2**21
_DOMINATORS = 512


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
    if n < 1 or any(_constant_breaks(limit) for limit in limits):
        return []
    problem = _Problem(objective, limits)
    floor = problem.lowest_score
    if problem.relaxation.bound < floor - problem.relaxation.tolerance:
        return []
    wanted = n + len(exclude)
    beam = max(_FIRST_BEAM, 4 * wanted)
    while True:
        found = problem.sweep(wanted, floor, beam)
        best = [arch for arch, _ in found.archs if arch not in exclude][:n]
        if found.exact:
            return best
        if beam >= _WIDEST_BEAM:
            raise OutOfResources(
                f"{len(limits)} limits over {len(objective.choices)} decisions leave more than "
                f"{beam} partial architectures to compare: too many to find the exact optimum. "
                "Loosen or drop a limit."
            )
        if len(best) == n:
            floor = max(floor, dict(found.archs)[best[-1]])
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


def _constant_breaks(limit: Limit) -> bool:
    return limit.cost.reduce == "max" and limit.cost.constant > limit.at_most


@dataclass(frozen=True, slots=True)
class _Found:
    """Architectures with their scores, best first; `exact` if no better one can be missing."""

    archs: list[tuple[Arch, float]]
    exact: bool


class _Problem:
    """One objective and its limits, laid out over one trellis.

    A limit on a sum is a resource that is spent; a limit on a maximum forbids single edges, which
    then score minus infinity. Scores leave out what every architecture has.
    """

    def __init__(self, objective: CompiledCost, limits: Sequence[Limit]) -> None:
        costs = [objective, *(limit.cost for limit in limits)]
        self.trellis = Trellis(
            objective.choices, [decisions for cost in costs for decisions, _ in cost.terms]
        )
        scores = self.trellis.edges(objective.terms, "sum")
        self.lowest_score = self.trellis.to_go(scores, "sum", "min")[1]
        forbidden = [np.zeros_like(edges) for edges in scores]
        for limit in limits:
            if limit.cost.reduce == "max":
                largest = self.trellis.edges(limit.cost.terms, "max")
                for edges, cost in zip(forbidden, largest, strict=True):
                    edges[cost > limit.at_most] = np.inf
        self.scores = [score - edges for score, edges in zip(scores, forbidden, strict=True)]
        sums = [x for x in limits if x.cost.reduce == "sum" and x.at_most < math.inf]
        self.at_most = np.array([limit.at_most for limit in sums])
        self.constant = np.array([limit.cost.constant for limit in sums])
        self.spent = [self.trellis.edges(limit.cost.terms, "sum") for limit in sums]
        self.to_spend = [
            self.trellis.to_go(
                [edges + never for edges, never in zip(spent, forbidden, strict=True)], "sum", "min"
            )[0]
            for spent in self.spent
        ]
        self.relaxation: Relaxation = relax(
            self.trellis,
            self.scores,
            self.spent,
            list(self.at_most - self.constant),
            floor=self.lowest_score,
        )

    def sweep(self, wanted: int, floor: float, beam: int) -> _Found:
        """The best `wanted` architectures, all of them unless the beam had to drop something."""
        prices, tolerance = self.relaxation.prices, self.relaxation.tolerance
        state: IntArray = np.zeros(1, np.intp)
        score: FloatArray = np.zeros(1)
        spent: FloatArray = np.tile(self.constant, (1, 1))
        steps: list[tuple[IntArray, IntArray]] = []
        exact = True
        for layer, onward in enumerate(self.trellis.onward):
            # Rows stay in the order of their choices throughout, so that a stable sort by score
            # puts the smallest tuple first among equals.
            priced = score + (self.at_most - spent) @ prices
            upper = priced[:, None] + self.relaxation.ways[layer][state]
            alive = upper >= floor - tolerance
            for limit, to_spend in enumerate(self.to_spend):
                alive &= spent[:, limit, None] + to_spend[layer][state] <= self.at_most[limit]
            parent, choice = np.nonzero(alive)
            edge = (state[parent], choice)
            upper = upper[parent, choice]
            score = score[parent] + self.scores[layer][edge]
            spent = spent[parent]
            for limit, edges in enumerate(self.spent):
                spent[:, limit] += edges[layer][edge]
            state = onward[edge]
            kept = np.flatnonzero(_undominated(state, score, spent, upper, wanted))
            if len(kept) > beam:
                exact = False
                kept = np.sort(kept[np.argpartition(-upper[kept], beam)[:beam]])
            state, score, spent = state[kept], score[kept], spent[kept]
            steps.append((parent[kept], choice[kept]))
        order = np.argsort(-score, kind="stable")[:wanted]
        return _Found(_retrace(steps, order, score), exact)


def _retrace(
    steps: Sequence[tuple[IntArray, IntArray]], rows: IntArray, score: FloatArray
) -> list[tuple[Arch, float]]:
    archs = np.zeros((len(rows), len(steps)), np.intp)
    row = rows
    for layer in reversed(range(len(steps))):
        parent, choice = steps[layer]
        archs[:, layer] = choice[row]
        row = parent[row]
    return [
        (tuple(arch), float(value)) for arch, value in zip(archs.tolist(), score[rows], strict=True)
    ]


def _undominated(
    state: IntArray, score: FloatArray, spent: FloatArray, upper: FloatArray, wanted: int
) -> npt.NDArray[np.bool_]:
    """Which partial architectures to keep: those with fewer than `wanted` known dominators.

    One dominates another in the same state if it comes first by score (of equal scores, by
    choices) and spends no more of anything. Looking at fewer dominators keeps more, and is safe.
    """
    keep = np.ones(len(score), np.bool_)
    if len(score) <= wanted:
        return keep
    if spent.shape[1] > 1:
        pool = np.argsort(-upper, kind="stable")[:_DOMINATORS]
        rank = np.empty(len(score), np.intp)
        rank[np.argsort(-score, kind="stable")] = np.arange(len(score))
        for start in range(0, len(score), 4096):
            some = slice(start, start + 4096)
            dominated = rank[pool] < rank[some, None]
            dominated &= state[pool] == state[some, None]
            for limit in range(spent.shape[1]):
                dominated &= spent[pool, limit] <= spent[some, limit, None]
            keep[some] = dominated.sum(axis=1) < wanted
        return keep
    for group in np.unique(state):
        rows = np.flatnonzero(state == group)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        if not spent.shape[1]:
            keep[rows[wanted:]] = False
            continue
        # Each pass takes those off that no other of the rest dominates: what is left after
        # `wanted` passes has a dominator in each.
        for _ in range(wanted):
            cost = spent[rows, 0]
            lowest_before = np.minimum.accumulate(np.append(np.inf, cost[:-1]))
            rows = rows[cost >= lowest_before]
            if not len(rows):
                break
        keep[rows] = False
    return keep
