"""The n highest scores within limits, by dynamic programming that loses nothing.

The scores and the limited costs are sums over terms, so this is a multiple-choice knapsack problem
with one or several resources (Kellerer, Pferschy, Pisinger, Knapsack Problems, 2004, chapter 11),
where in addition a term may look at several decisions. Partial architectures are extended by one
decision after another, and kept few by two prunings:

* dominance: one goes when enough others are at least as good in the score and in every limited
  cost, whatever follows;
* bounds: it goes when even the best way on cannot hold a limit, or when the Lagrangian bound on
  its score lies below the best that is already known.

A first sweep keeps a narrow beam and finds good architectures; the next ones are wider, and prune
against what is known, until one never had to drop anything.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.latency_tables.elimination import Arch, FloatArray, IntArray, Trellis
from nasdeploy.latency_tables.relaxation import Relaxation, relax

_DOMINATORS = 512


class Problem:
    """One objective and its limits, laid out over one trellis.

    A limit on a sum is a resource that is spent; a limit on a maximum forbids single edges, which
    then score minus infinity. Scores leave out what every architecture has.
    """

    def __init__(
        self, objective: CompiledCost, limits: Sequence[tuple[CompiledCost, float]]
    ) -> None:
        costs = [objective, *(cost for cost, _ in limits)]
        self.trellis = Trellis(
            objective.choices, [decisions for cost in costs for decisions, _ in cost.terms]
        )
        scores = self.trellis.edges(objective.terms, "sum")
        self.lowest_score = self.trellis.to_go(scores, "sum", "min")[1]
        forbidden = [np.zeros_like(edges) for edges in scores]
        for cost, at_most in limits:
            if cost.reduce == "max":
                layers = self.trellis.edges(cost.terms, "max")
                for edges, largest in zip(forbidden, layers, strict=True):
                    edges[largest > at_most] = np.inf
        self.scores = [score - edges for score, edges in zip(scores, forbidden, strict=True)]
        self.to_score = self.trellis.to_go(self.scores, "sum", "max")[0]
        sums = [(cost, most) for cost, most in limits if cost.reduce == "sum" and most < math.inf]
        self.at_most = np.array([most for _, most in sums])
        self.constant = np.array([cost.constant for cost, _ in sums])
        self.spent = [self.trellis.edges(cost.terms, "sum") for cost, _ in sums]
        self.to_spend = [
            self.trellis.to_go(
                [edges + never for edges, never in zip(spent, forbidden, strict=True)], "sum", "min"
            )[0]
            for spent in self.spent
        ]
        room = list(self.at_most - self.constant)
        self.relaxation: Relaxation = relax(
            self.trellis, self.scores, self.spent, room, floor=self.lowest_score
        )
        # Limits that can each be held may together leave no room: their tightest mean knows.
        self.mean: Relaxation | None = None
        if len(sums) > 1:
            unscored = [-edges for edges in forbidden]
            self.mean = relax(self.trellis, unscored, self.spent, room, floor=0.0, shares=True)

    def proves_empty(self) -> bool:
        """Whether the relaxations alone show that nothing lies within the limits."""
        scores, mean = self.relaxation, self.mean
        return scores.bound < self.lowest_score - scores.tolerance or (
            mean is not None and mean.bound < -mean.tolerance
        )

    def sweep(self, wanted: int, beam: int, last: Arch | None) -> tuple[list[Arch], bool]:
        """The best `wanted` architectures; surely all of them unless the beam dropped something.

        Args:
            beam: How many partial architectures are kept.
            last: A known architecture; what comes after it is not looked for.
        """
        prices, tolerance = self.relaxation.prices, self.relaxation.tolerance
        floor = self.lowest_score if last is None else self.trellis.total(self.scores, last)
        rows = _Rows(
            state=np.zeros(1, np.intp),
            score=np.zeros(1),
            spent=self.constant[None, :],
            after=np.zeros(1, np.intp),
        )
        steps: list[tuple[IntArray, IntArray]] = []
        exact = True
        for layer in range(len(self.trellis.choices)):
            priced = rows.score + (self.at_most - rows.spent) @ prices
            upper = priced[:, None] + self.relaxation.ways[layer][rows.state]
            highest = rows.score[:, None] + self.to_score[layer][rows.state]
            alive = (upper >= floor - tolerance) & (highest >= floor)
            for limit, to_spend in enumerate(self.to_spend):
                least = rows.spent[:, limit, None] + to_spend[layer][rows.state]
                alive &= least <= self.at_most[limit]
            room = upper
            if self.mean is not None:
                left = (self.at_most - rows.spent) @ self.mean.prices
                room = left[:, None] + self.mean.ways[layer][rows.state]
                alive &= room >= -self.mean.tolerance
            if last is not None:
                after = _after(rows.after[:, None], np.arange(alive.shape[1]) - last[layer])
                alive &= (after <= 0) | (highest > floor)
            # From here to the end rows stay in the order of their choices, so that a stable sort
            # by score puts the smallest tuple first among equals.
            parent, choice = np.nonzero(alive)
            rows = self._step(rows, layer, parent, choice, last)
            upper, room = upper[parent, choice], room[parent, choice]
            kept = np.flatnonzero(_undominated(rows, upper, wanted))
            if len(kept) > beam:
                exact = False
                # The promising, and those most sure to hold every limit in the end.
                promising, sure = np.argsort(-np.stack([upper[kept], room[kept]]), kind="stable")
                kept = kept[np.union1d(promising[: beam // 2], sure[: beam // 2])]
            rows = rows.take(kept)
            steps.append((parent[kept], choice[kept]))
        return _retrace(steps, np.argsort(-rows.score, kind="stable")[:wanted]), exact

    def _step(
        self, rows: _Rows, layer: int, parent: IntArray, choice: IntArray, last: Arch | None
    ) -> _Rows:
        edge = (rows.state[parent], choice)
        spent = rows.spent[parent]
        for limit, edges in enumerate(self.spent):
            spent[:, limit] += edges[layer][edge]
        return _Rows(
            state=self.trellis.onward[layer][edge],
            score=rows.score[parent] + self.scores[layer][edge],
            spent=spent,
            after=rows.after[parent]
            if last is None
            else _after(rows.after[parent], choice - last[layer]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """Partial architectures.

    Attributes:
        state: (n,) of the trellis.
        score: (n,) so far, without what every architecture has.
        spent: (n, limits) so far.
        after: (n,) positive behind the last known architecture in the order of choices, 0 on it.
    """

    state: IntArray
    score: FloatArray
    spent: FloatArray
    after: IntArray

    def take(self, rows: IntArray) -> _Rows:
        return _Rows(self.state[rows], self.score[rows], self.spent[rows], self.after[rows])


def _after(so_far: IntArray, difference: IntArray) -> IntArray:
    return np.where(so_far != 0, so_far, difference)


def _retrace(steps: Sequence[tuple[IntArray, IntArray]], rows: IntArray) -> list[Arch]:
    archs = np.zeros((len(rows), len(steps)), np.intp)
    for layer in reversed(range(len(steps))):
        parent, choice = steps[layer]
        archs[:, layer] = choice[rows]
        rows = parent[rows]
    return [tuple(arch) for arch in archs.tolist()]


def _undominated(rows: _Rows, upper: FloatArray, wanted: int) -> npt.NDArray[np.bool_]:
    """Which partial architectures to keep: those with fewer than `wanted` known dominators.

    One dominates another in the same state if it comes first by score (of equal scores, by
    choices) and spends no more of anything. Looking at fewer dominators keeps more, and is safe.
    """
    n, limits = rows.spent.shape
    keep = np.ones(n, np.bool_)
    if n <= wanted:
        return keep
    order = np.argsort(-rows.score, kind="stable")
    if limits > 1:
        pool = np.argsort(-upper, kind="stable")[:_DOMINATORS]
        rank = np.empty(n, np.intp)
        rank[order] = np.arange(n)
        for start in range(0, n, 4096):
            some = slice(start, start + 4096)
            dominates = rank[pool] < rank[some, None]
            dominates &= rows.state[pool] == rows.state[some, None]
            for limit in range(limits):
                dominates &= rows.spent[pool, limit] <= rows.spent[some, limit, None]
            keep[some] = dominates.sum(axis=1) < wanted
        return keep
    cost = rows.spent[order, 0] if limits else np.zeros(n)
    # Per state, the lowest costs so far in a heap that has the highest of them on top (negated).
    heaps: dict[int, list[float]] = {}
    for row, state, spent in zip(
        order.tolist(), rows.state[order].tolist(), cost.tolist(), strict=True
    ):
        heap = heaps.setdefault(state, [])
        if len(heap) < wanted:
            heapq.heappush(heap, -spent)
        elif spent < -heap[0]:
            heapq.heapreplace(heap, -spent)
        else:
            keep[row] = False
    return keep
