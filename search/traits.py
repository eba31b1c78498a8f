"""What networks are made of, for a model that is to see which of them are alike.

Choices say little of it. An operator that the output does not depend on is a choice like any other,
and a skip joins what lies on either side of it, so that one network is written in several ways that
share few choices. Traits are of the network that is computed: how often each operator, and how many
layers lie on the longest and on the shortest way from the image to the output.

After Kandasamy et al., "Neural Architecture Search with Bayesian Optimisation and Optimal
Transport" (NeurIPS 2018, arXiv:1802.07191), section 3, whose distance compares the layers of two
networks and the lengths of the longest and shortest ways to them.

Where we differ: their distance matches layers one by one, which is an optimisation for each pair of
networks; ours is that of a few numbers each, which come for all candidates at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.space import Arch
from nasdeploy.search.wired_space import WiredSpace
from nasdeploy.search.wiring import (
    IMAGE,
    WEIGHTLESS,
    Edge,
    Shape,
    Taker,
    Wire,
    output_shape,
    shape_behind,
)

BoolArray = npt.NDArray[np.bool_]
IntArray = npt.NDArray[np.integer]

_NO_WAY = 2**14  # longer than any way
_JOINING = frozenset({"add", "concat"})  # what is not counted
_OF_SHAPES = ("out", "stride")
_NO_LAYER = WEIGHTLESS | _JOINING | {"batch_norm", "bn_relu", "resize"}


def traits(space: WiredSpace, archs: Sequence[Arch] | IntArray) -> tuple[list[str], IntArray]:
    """The names of the traits, and (n, traits) their values.

    The last two are the layers on the longest and on the shortest way; before them stands how often
    each kind of operator that is chosen is computed, whatever its shape. Operators on which the
    output does not depend, or whose input is zero whatever the image, are not computed. A network
    that is zero whatever the image has zeros everywhere.
    """
    net = TraitWiring(np.asarray(archs).reshape(-1, len(space.decisions)))
    output = space.wire(net, Wire(IMAGE, space.deployment.input_shape), space.deployment)
    return net.finish(output)


@dataclass(frozen=True, slots=True)
class _Way:
    """How a node comes about in some architectures.

    Attributes:
        taken: (n,) in which.
        inputs: What comes in; nothing where it is zero whatever the image.
        layers: 1 for an operator that is a layer, else 0.
        kind: Of an operator that a decision chose.
    """

    taken: BoolArray
    inputs: tuple[str, ...]
    layers: int = 0
    kind: str | None = None


@dataclass(frozen=True, slots=True)
class _Node:
    """
    Attributes:
        there: (n,) where it is not zero whatever the image.
        longest: (n,) layers on the longest way to its output.
        shortest: (n,) and on the shortest.
    """

    ways: Sequence[_Way]
    there: BoolArray
    longest: IntArray
    shortest: IntArray


class TraitWiring:
    """Wires many architectures at once, (n, decisions), and looks how their networks are made."""

    def __init__(self, archs: IntArray) -> None:
        self.archs = archs
        self._always = np.ones(len(archs), np.bool_)
        start = np.zeros(len(archs), np.int16)
        self._nodes = {IMAGE: _Node((), self._always, start, start)}
        self._masks: dict[tuple[int, tuple[int, ...]], BoolArray] = {}

    def op(self, name: str, key: OpKey, *inputs: Wire) -> Wire:
        return self._add(name, output_shape(key), [_way(self._always, key, inputs, chosen=False)])

    def choose(self, name: str, decision: int, keys: Sequence[OpKey | None], *inputs: Wire) -> Wire:
        ways = [
            _way(self._taken(decision, (at,)), key, inputs, chosen=True)
            for at, key in enumerate(keys)
        ]
        return self._add(name, shape_behind(keys, inputs[0].shape), ways)

    def join(
        self, name: str, decision: int, options: Sequence[tuple[int, ...]], edges: Sequence[Edge]
    ) -> Wire:
        choices = [
            tuple(choice for choice, option in enumerate(options) if at in option)
            for at in range(len(edges))
        ]
        return self._sum(name, edges, [self._taken(decision, some) for some in choices])

    def total(self, name: str, edges: Sequence[Edge]) -> Wire:
        return self._sum(name, edges, [self._always] * len(edges))

    def or_zeros(self, name: str, wire: Wire, source: Wire) -> Wire:
        return wire

    def rest(
        self, name: str, base: Wire, edges: Sequence[Edge], takers: Sequence[tuple[Taker, ...]]
    ) -> Wire:
        free = [self._always.copy() for _ in edges]
        for unused, by in zip(free, takers, strict=True):
            for decision, choice in by:
                unused &= ~self._taken(decision, (choice,))
        return self._sum(name, [Edge(f"{name}_base", base), *edges], [self._always, *free])

    def finish(self, output: Wire) -> tuple[list[str], IntArray]:
        """See `traits`."""
        ways = [way for node in self._nodes.values() for way in node.ways]
        kinds = dict.fromkeys(way.kind for way in ways if way.kind is not None)
        counts = {kind: np.zeros(len(self.archs), np.int16) for kind in kinds}
        needed = {name: np.zeros(len(self.archs), np.bool_) for name in self._nodes}
        needed[str(output.name)] |= True
        for name, node in reversed(self._nodes.items()):
            computed = needed[name] & node.there
            for way in node.ways:
                here = computed & way.taken
                if way.kind is not None:
                    counts[way.kind] += here
                for source in way.inputs:
                    needed[source] |= here
        end = self._nodes[str(output.name)]
        columns = [*counts.values(), end.longest, np.where(end.there, end.shortest, 0)]
        return [*counts, "longest", "shortest"], np.column_stack(columns)

    def _sum(self, name: str, edges: Sequence[Edge], taken: Sequence[BoolArray]) -> Wire:
        along = [self._along(edge) for edge in edges]
        ways = [_Way(some, (str(wire.name),)) for some, wire in zip(taken, along, strict=True)]
        return self._add(name, along[0].shape, ways)

    def _along(self, edge: Edge) -> Wire:
        if edge.decision is not None:
            return self.choose(edge.name, edge.decision, edge.keys, edge.source)
        key = edge.keys[0]
        return edge.source if key is None else self.op(edge.name, key, edge.source)

    def _taken(self, decision: int, choices: tuple[int, ...]) -> BoolArray:
        """(n,) where a decision takes one of these; the same cell asks many times."""
        if (decision, choices) not in self._masks:
            self._masks[decision, choices] = np.isin(self.archs[:, decision], choices)
        return self._masks[decision, choices]

    def _add(self, name: str, shape: Shape, ways: Sequence[_Way]) -> Wire:
        there = np.zeros(len(self.archs), np.bool_)
        longest = np.zeros(len(self.archs), np.int16)
        shortest = np.full(len(self.archs), _NO_WAY, np.int16)
        for way in ways:
            for source in (self._nodes[at] for at in way.inputs):
                comes = way.taken & source.there
                there |= comes
                np.maximum(longest, source.longest + way.layers, out=longest, where=comes)
                np.minimum(shortest, source.shortest + way.layers, out=shortest, where=comes)
        self._nodes[name] = _Node(ways, there, longest, shortest)
        return Wire(name, shape)


def _way(taken: BoolArray, key: OpKey | None, inputs: Sequence[Wire], *, chosen: bool) -> _Way:
    """An operator on its inputs, or what passes by without one."""
    names = tuple(str(wire.name) for wire in inputs)
    if key is None:
        return _Way(taken, names)
    if key.kind == "zeros":
        return _Way(taken, ())
    kind = None
    if chosen and key.kind not in _JOINING:
        shapeless = [f"{name}={value}" for name, value in key.attributes if name not in _OF_SHAPES]
        kind = " ".join([key.kind, *shapeless])
    return _Way(taken, names, int(key.kind not in _NO_LAYER), kind)
