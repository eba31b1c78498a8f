"""A network of cells, written down once: how operators are wired, and what the decisions decide.

A space says in one function how its networks are wired, on a `Wiring`. What comes of it depends on
which wiring that is: the operators of one architecture (`PlanWiring`), the terms of the cost of all
of them (`TermWiring`), or the supernet (`wired.SupernetWiring`). So what is measured, what is
estimated and what is built cannot drift apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import numpy as np

from nasdeploy.latency_tables.cost import CostTerm
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.space import Arch, Decision

Shape = tuple[int, int, int]

IMAGE = "image"
"""What the input of a network is called."""

WEIGHTLESS = frozenset({"add", "avg_pool", "max_pool", "zeros"})
"""Kinds of operators that give the same wherever they stand, on the same inputs."""


@dataclass(frozen=True, slots=True)
class Wire:
    """The output of an operator; without a name it is zero, whatever the image."""

    name: str | None
    shape: Shape


@dataclass(frozen=True, slots=True)
class Edge:
    """A way into a node.

    Attributes:
        source: Where it comes from.
        keys: What may stand on it, each with the same output shape; None for nothing at all.
        decision: Which decision chooses among `keys`; None where there is one only.
    """

    name: str
    source: Wire
    keys: tuple[OpKey | None, ...] = (None,)
    decision: int | None = None

    @property
    def shape(self) -> Shape:
        """What comes out at its end."""
        return shape_behind(self.keys, self.source.shape)


Taker = tuple[int, int]
"""A decision, and the choice of it that takes a wire as an input."""


class Wiring(Protocol):
    """What a space is wired on. Names are those of the modules; each occurs once."""

    def op(self, name: str, key: OpKey, *inputs: Wire) -> Wire:
        """An operator that every network has."""
        ...

    def choose(self, name: str, decision: int, keys: Sequence[OpKey | None], *inputs: Wire) -> Wire:
        """One operator of several; None for none at all, where there is one input."""
        ...

    def join(
        self, name: str, decision: int, options: Sequence[tuple[int, ...]], edges: Sequence[Edge]
    ) -> Wire:
        """The sum of some of the edges; each option lists those that count."""
        ...

    def total(self, name: str, edges: Sequence[Edge]) -> Wire:
        """The sum of all edges but those with ``zeros`` on them or behind them."""
        ...

    def or_zeros(self, name: str, wire: Wire, source: Wire) -> Wire:
        """`wire`; where it is zero whatever the image, zeros in the shape of `source`."""
        ...

    def rest(
        self, name: str, base: Wire, edges: Sequence[Edge], takers: Sequence[tuple[Taker, ...]]
    ) -> Wire:
        """`base` and the sum of those edges of which no decision takes the source."""
        ...


def output_shape(key: OpKey) -> Shape:
    """The shape behind an operator: ``out`` channels or as many as go in, halved by a stride."""
    channels, height, width = key.input_shapes[0]
    a = key.attribute
    if key.kind == "concat":
        channels = sum(shape[0] for shape in key.input_shapes)
    if key.kind == "resize":
        return channels, int(a["height"]), int(a["width"])
    stride = int(a.get("stride", 1))
    return int(a.get("out", channels)), (height - 1) // stride + 1, (width - 1) // stride + 1


def shape_behind(keys: Sequence[OpKey | None], source: Shape) -> Shape:
    """The shape behind any of `keys`; they all have the same."""
    return next((output_shape(key) for key in keys if key is not None), source)


def add_key(shape: Shape) -> OpKey:
    return OpKey.of("add", [shape, shape])


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of a network, on the outputs of others."""

    name: str
    key: OpKey
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One architecture as a list of operators, in an order in which they can be computed.

    Attributes:
        steps: All that `output` depends on.
        output: The step whose output the head gets.
        shape: Of that output.
        spare: Operators that the published network has and that nothing depends on.
    """

    steps: tuple[Step, ...]
    output: str
    shape: Shape
    spare: tuple[tuple[str, OpKey], ...] = ()


class PlanWiring:
    """Wires one architecture.

    Args:
        keep_spare: Remember operators on which nothing depends, for the sake of their parameters.
        once: What several edges compute of the same inputs without weights is computed once, as
            runtimes that look for it (ONNX Runtime) do anyway.
    """

    def __init__(self, arch: Arch, *, keep_spare: bool = False, once: bool = False) -> None:
        self.arch = arch
        self.keep_spare = keep_spare
        self.once = once
        self._first: dict[tuple[OpKey, tuple[str, ...]], str] = {}
        self._steps: dict[str, Step] = {}
        self._spare: list[tuple[str, OpKey]] = []

    def op(self, name: str, key: OpKey, *inputs: Wire) -> Wire:
        names = tuple(wire.name for wire in inputs if wire.name is not None)
        if len(names) < len(inputs):  # an operator on zeros is left out, and zero
            self._spare.append((name, key))
            return Wire(None, output_shape(key))
        if self.once and key.kind in WEIGHTLESS:
            name = self._first.setdefault((key, names), name)
        self._steps.setdefault(name, Step(name, key, names))
        return Wire(name, output_shape(key))

    def choose(self, name: str, decision: int, keys: Sequence[OpKey | None], *inputs: Wire) -> Wire:
        key = keys[self.arch[decision]]
        return inputs[0] if key is None else self.op(name, key, *inputs)

    def join(
        self, name: str, decision: int, options: Sequence[tuple[int, ...]], edges: Sequence[Edge]
    ) -> Wire:
        return self._sum(name, [self._along(edges[i]) for i in options[self.arch[decision]]])

    def total(self, name: str, edges: Sequence[Edge]) -> Wire:
        return self._sum(name, [self._along(edge, drop_zeros=True) for edge in edges])

    def or_zeros(self, name: str, wire: Wire, source: Wire) -> Wire:
        if wire.name is not None:
            return wire
        return self.op(name, OpKey.of("zeros", [source.shape], stride=1), source)

    def rest(
        self, name: str, base: Wire, edges: Sequence[Edge], takers: Sequence[tuple[Taker, ...]]
    ) -> Wire:
        free = [
            edge
            for edge, by in zip(edges, takers, strict=True)
            if all(self.arch[decision] != choice for decision, choice in by)
        ]
        return self._sum(name, [base, *map(self._along, free)])

    def finish(self, output: Wire) -> Plan:
        assert output.name is not None
        needed, waiting = set[str](), [output.name]
        while waiting:
            name = waiting.pop()
            if name not in needed and name != IMAGE:
                needed.add(name)
                waiting += self._steps[name].inputs
        spare = [
            *self._spare,
            *((step.name, step.key) for step in self._steps.values() if step.name not in needed),
        ]
        return Plan(
            tuple(step for step in self._steps.values() if step.name in needed),
            output.name,
            output.shape,
            tuple(spare) if self.keep_spare else (),
        )

    def _along(self, edge: Edge, *, drop_zeros: bool = False) -> Wire:
        key = edge.keys[0 if edge.decision is None else self.arch[edge.decision]]
        if key is None:
            return edge.source
        if drop_zeros and key.kind == "zeros":
            return Wire(None, output_shape(key))
        return self.op(edge.name, key, edge.source)

    def _sum(self, name: str, wires: Sequence[Wire]) -> Wire:
        there = [wire for wire in wires if wire.name is not None]
        if not there:
            return Wire(None, wires[0].shape)
        total = there[0]
        for number, wire in enumerate(there[1:], start=1):
            total = self.op(f"{name}_add{number}", add_key(total.shape), total, wire)
        return total


class TermWiring:
    """Wires all architectures at once, as terms of their cost.

    `total` is not for it: there, whether an operator counts depends on all decisions of a cell.
    """

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self.sizes = [len(decision.choices) for decision in decisions]
        self._always: list[str] = []
        self._terms: Counter[tuple[tuple[int, ...], tuple[tuple[str, ...], ...]]] = Counter()
        # Cells of one kind have the same takers; their costs by which edges are free, bit by bit.
        self._rests: dict[tuple[tuple[Taker, ...], ...], list[tuple[str, ...]]] = {}

    def op(self, name: str, key: OpKey, *inputs: Wire) -> Wire:
        self._always.append(str(key))
        return Wire(name, output_shape(key))

    def choose(self, name: str, decision: int, keys: Sequence[OpKey | None], *inputs: Wire) -> Wire:
        self.add((decision,), [_texts(key) for key in keys])
        return Wire(name, shape_behind(keys, inputs[0].shape))

    def join(
        self, name: str, decision: int, options: Sequence[tuple[int, ...]], edges: Sequence[Edge]
    ) -> Wire:
        shape = edges[0].shape
        sums = [(str(add_key(shape)),) * (len(option) - 1) for option in options]
        self.add((decision,), sums)
        for index, edge in enumerate(edges):
            texts = [_texts(key) for key in edge.keys]
            looks = (decision,) if edge.decision is None else (decision, edge.decision)
            counts = [texts if index in option else [()] * len(texts) for option in options]
            self.add(looks, [text for row in counts for text in row])
        return Wire(name, shape)

    def total(self, name: str, edges: Sequence[Edge]) -> Wire:
        raise NotImplementedError("A space that drops zeros says what its cells cost by itself")

    def or_zeros(self, name: str, wire: Wire, source: Wire) -> Wire:
        return wire

    def rest(
        self, name: str, base: Wire, edges: Sequence[Edge], takers: Sequence[tuple[Taker, ...]]
    ) -> Wire:
        add = (str(add_key(base.shape)),)
        costs = self._rests.setdefault(tuple(takers), [()] * 2 ** len(edges))
        for free in range(len(costs)):
            for bit, edge in enumerate(edges):
                if free >> bit & 1:
                    costs[free] += (*_texts(edge.keys[0]), *add)
        return Wire(name, base.shape)

    def add(self, decisions: tuple[int, ...], op_keys: Sequence[tuple[str, ...]]) -> None:
        """A term beside those of the wiring, unless it costs nothing whatever the choices."""
        if any(op_keys):
            self._terms[decisions, tuple(op_keys)] += 1

    def finish(self, *always: OpKey) -> tuple[CostTerm, ...]:
        """The terms; equal ones are counted and not repeated."""
        texts = (*self._always, *map(str, always))
        terms = [CostTerm((), (), (texts,))]
        for (decisions, op_keys), times in self._terms.items():
            sizes = tuple(self.sizes[decision] for decision in decisions)
            assert len(op_keys) == math.prod(sizes)
            terms.append(CostTerm(decisions, sizes, op_keys, times))
        return (*terms, *(self._rest_term(takers, costs) for takers, costs in self._rests.items()))

    def _rest_term(
        self, takers: tuple[tuple[Taker, ...], ...], costs: Sequence[tuple[str, ...]]
    ) -> CostTerm:
        looks = tuple(sorted({decision for by in takers for decision, _ in by}))
        sizes = tuple(self.sizes[decision] for decision in looks)
        free = np.zeros(sizes, np.int64)
        for bit, by in enumerate(takers):
            unused = np.ones(sizes, np.bool_)
            for decision, choice in by:
                taking = np.arange(self.sizes[decision]) == choice
                unused &= ~taking.reshape([-1 if look == decision else 1 for look in looks])
            free |= unused.astype(np.int64) << bit
        return CostTerm(looks, sizes, tuple([costs[bits] for bits in free.ravel().tolist()]))


def _texts(key: OpKey | None) -> tuple[str, ...]:
    return () if key is None else (str(key),)


def all_archs(decisions: Sequence[Decision]) -> list[Arch]:
    """Every architecture in row-major order; for spaces that are small."""
    return list(product(*(range(len(decision.choices)) for decision in decisions)))
