"""Exact optima of a sum or a maximum over terms, by eliminating one decision after another.

Variable elimination (Bertele and Brioschi, Nonserial Dynamic Programming, 1972), from the last
decision to the first. Between two decisions, all that the rest of a network needs to know of the
choices so far are those that a later term still looks at, the *open* ones; there are none in a
space whose terms look at one decision each, so that the work grows with the number of decisions
and not with the number of architectures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from nasdeploy.errors import UsageError

Arch = tuple[int, ...]
"""One choice index per decision of a space."""

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.intp]
Term = tuple[tuple[int, ...], FloatArray]
"""Decisions in ascending order, and the cost of their joint choices."""

Reduce = Literal["sum", "max"]
Best = Literal["min", "max"]

_MOST_JOINT_CHOICES = 2**22


def spread(term: Term, axes: Sequence[int]) -> FloatArray:
    """The term's costs with an axis for each of `axes`, of length 1 where it does not look."""
    decisions, table = term
    sizes = dict(zip(decisions, table.shape, strict=True))
    return table.reshape([sizes.get(axis, 1) for axis in axes])


class Trellis:
    """The layers, one per decision, that architectures run through.

    A state of layer i is a joint choice of the decisions before i that are still open there,
    numbered in row-major order; an edge is a choice of decision i.

    Args:
        choices: The number of choices of each decision.
        looks: Which decisions each term looks at, ascending.

    Attributes:
        onward: For each layer, (states, choices) the state of the next layer that an edge leads to.

    Raises: `UsageError` if so many decisions are open at once that the states cannot be listed.
    """

    def __init__(self, choices: Sequence[int], looks: Iterable[tuple[int, ...]]) -> None:
        self.choices = tuple(choices)
        looks = [look for look in looks if look]
        self._open = [
            tuple(sorted({d for look in looks if look[-1] >= layer for d in look if d < layer}))
            for layer in range(len(self.choices) + 1)
        ]
        self._axes = [(*open_, layer) for layer, open_ in enumerate(self._open[:-1])]
        for layer, axes in enumerate(self._axes):
            edges = math.prod(self.choices[d] for d in axes)
            if edges > _MOST_JOINT_CHOICES:
                raise UsageError(
                    f"Decision {layer} depends on {len(axes) - 1} earlier ones, {edges} joint "
                    "choices: too many to find the exact range. Split the terms so that each "
                    "looks at fewer decisions."
                )
        self.onward = [self._onward(layer) for layer in range(len(self.choices))]

    def _onward(self, layer: int) -> IntArray:
        axes, kept = self._axes[layer], self._open[layer + 1]
        sizes = [self.choices[d] for d in axes]
        state = np.zeros([1] * len(axes), np.intp)
        for decision in kept:
            shape = [size if d == decision else 1 for d, size in zip(axes, sizes, strict=True)]
            size = self.choices[decision]
            state = state * size + np.arange(size, dtype=np.intp).reshape(shape)
        return np.ascontiguousarray(np.broadcast_to(state, sizes)).reshape(-1, sizes[-1])

    def edges(self, terms: Iterable[Term], reduce: Reduce) -> list[FloatArray]:
        """For each layer, (states, choices) what the terms that end at it cost on each edge.

        Terms under no decisions are left out; the identity stands where no term ends.
        """
        join, identity = (np.add, 0.0) if reduce == "sum" else (np.maximum, -np.inf)
        layers: list[FloatArray] = [
            np.full([self.choices[d] for d in axes], identity) for axes in self._axes
        ]
        for decisions, table in terms:
            if decisions:
                layer = decisions[-1]
                join(
                    layers[layer], spread((decisions, table), self._axes[layer]), out=layers[layer]
                )
        return [edges.reshape(-1, edges.shape[-1]) for edges in layers]

    def to_go(
        self, edges: Sequence[FloatArray], reduce: Reduce, best: Best
    ) -> tuple[list[FloatArray], float]:
        """For each layer, (states, choices) an edge with the best way on; and the best of all.

        Terms under no decisions are not in it.
        """
        join, identity = (np.add, 0.0) if reduce == "sum" else (np.maximum, -np.inf)
        ahead: FloatArray = np.array([identity])
        ways: list[FloatArray] = []
        for layer in reversed(range(len(self.choices))):
            way = join(edges[layer], ahead[self.onward[layer]])
            ahead = way.min(axis=1) if best == "min" else way.max(axis=1)
            ways.append(way)
        return ways[::-1], float(ahead[0])

    def path(self, ways: Sequence[FloatArray], best: Best) -> Arch:
        """The architecture that takes the best way at each layer, the first of equal choices."""
        state, arch = 0, []
        for way, onward in zip(ways, self.onward, strict=True):
            choice = int(way[state].argmin() if best == "min" else way[state].argmax())
            arch.append(choice)
            state = int(onward[state, choice])
        return tuple(arch)

    def total(self, edges: Sequence[FloatArray], arch: Arch) -> float:
        """The sum of the edges that an architecture takes."""
        state, total = 0, 0.0
        for layer, choice in enumerate(arch):
            total += float(edges[layer][state, choice])
            state = int(self.onward[layer][state, choice])
        return total
