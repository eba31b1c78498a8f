"""Architectures written down: as text, as nested data, as a graph, as a matrix; and what is alike.

Text and nested data keep every choice. Graphs and matrices show what a network is made of, and
what comes back from them is the architecture with every idle decision (the operator of an edge
that ends nowhere, a block behind its stage's depth) at its first choice: the same network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nasdeploy.errors import BadInput, UnknownName
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.space import Arch, SearchSpace, check_arch
from nasdeploy.search.wired_space import PlannedSpace, WiredSpace
from nasdeploy.search.wiring import IMAGE, Edge, Plan, Taker, Wire, output_shape, shape_behind

if TYPE_CHECKING:
    import networkx

HEAD = "head"
_SUM = "sum"


def to_text(space: SearchSpace, arch: Arch) -> str:
    """``decision=choice`` for each decision, with semicolons between them."""
    check_arch(space, arch)
    return ";".join(
        f"{decision.label}={decision.choices[choice]}"
        for decision, choice in zip(space.decisions, arch, strict=True)
    )


def from_text(space: SearchSpace, text: str) -> Arch:
    """The architecture behind `to_text`; `BadInput` or `UnknownName` if it is none of `space`."""
    pairs = [part.partition("=") for part in text.split(";")]
    return _arch_of(space, {label: choice for label, _, choice in pairs})


def to_json(space: SearchSpace, arch: Arch) -> dict[str, Any]:
    """Choices by the parts of their labels: {"normal": {"node1": {"from0": "none", ...}}}."""
    check_arch(space, arch)
    nested: dict[str, Any] = {}
    for decision, choice in zip(space.decisions, arch, strict=True):
        *parents, last = decision.label.split(".")
        inner = nested
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[last] = decision.choices[choice]
    return nested


def from_json(space: SearchSpace, nested: Mapping[str, Any]) -> Arch:
    """The architecture behind `to_json`, read from a file or not."""
    flat: dict[str, str] = {}

    def walk(inner: Mapping[str, Any], prefix: str) -> None:
        for name, value in inner.items():
            if isinstance(value, Mapping):
                walk(value, f"{prefix}{name}.")
            else:
                flat[f"{prefix}{name}"] = str(value)

    walk(nested, "")
    return _arch_of(space, flat)


def _arch_of(space: SearchSpace, named: Mapping[str, str]) -> Arch:
    labels = [decision.label for decision in space.decisions]
    for label in named:
        if label not in labels:
            raise UnknownName(f"decision of {space.name}", label, labels)
    choices = []
    for decision in space.decisions:
        if decision.label not in named:
            raise BadInput(f"An architecture of {space.name} needs a choice of {decision.label}.")
        if named[decision.label] not in decision.choices:
            raise UnknownName(
                f"choice of {decision.label}", named[decision.label], decision.choices
            )
        choices.append(decision.choices.index(named[decision.label]))
    return tuple(choices)


def to_graph(space: SearchSpace, arch: Arch) -> networkx.DiGraph[str]:
    """The network as a graph: a node for each operator, sum and skip, with its name in ``op``.

    Where choices stand on edges, an edge of the cell is a node here. Spaces that are not wired are
    the chain of their choices.
    """
    import networkx

    check_arch(space, arch)
    graph: networkx.DiGraph[str] = networkx.DiGraph()
    graph.add_node(IMAGE, op=IMAGE)
    if isinstance(space, WiredSpace):
        net = _GraphWiring(space, arch, graph)
        shape = space.deployment.input_shape
        last = str(space.wire(net, Wire(IMAGE, shape), space.deployment).name)
    else:
        last = IMAGE
        for decision, choice in zip(space.decisions, canonical_arch(space, arch), strict=True):
            graph.add_node(decision.label, op=decision.choices[choice])
            graph.add_edge(last, decision.label)
            last = decision.label
    graph.add_node(HEAD, op=HEAD)
    graph.add_edge(last, HEAD)
    return graph


def from_graph(space: SearchSpace, graph: networkx.DiGraph[str]) -> Arch:
    """The architecture behind `to_graph`, idle decisions at their first choice.

    Raises: `BadInput` naming the node that fits none of the choices there.
    """
    if isinstance(space, WiredSpace):
        net = _GraphReading(space, graph)
        space.wire(net, Wire(IMAGE, space.deployment.input_shape), space.deployment)
        return canonical_arch(space, tuple(net.read))
    choices = []
    for decision in space.decisions:
        operator = graph.nodes[decision.label]["op"] if decision.label in graph else None
        if operator not in decision.choices:
            raise BadInput(
                f"{decision.label} is {operator!r} in the graph: {space.name} has "
                f"{', '.join(decision.choices)} there."
            )
        choices.append(decision.choices.index(operator))
    return canonical_arch(space, tuple(choices))


@dataclass(frozen=True, eq=False)
class Adjacency:
    """A graph as a matrix.

    Attributes:
        names: (n,) of the nodes.
        operators: (n,) what stands there.
        matrix: (n, n) 1 where the output of the row's node goes into the column's.
    """

    names: tuple[str, ...]
    operators: tuple[str, ...]
    matrix: npt.NDArray[np.int8]


def to_adjacency(space: SearchSpace, arch: Arch) -> Adjacency:
    """`to_graph` as a matrix, in an order in which every edge points to the right."""
    import networkx

    graph = to_graph(space, arch)
    names = tuple(networkx.lexicographical_topological_sort(graph))
    matrix = np.zeros((len(names), len(names)), np.int8)
    at = {name: index for index, name in enumerate(names)}
    for source, to in graph.edges:
        matrix[at[source], at[to]] = 1
    return Adjacency(names, tuple(graph.nodes[name]["op"] for name in names), matrix)


def from_adjacency(space: SearchSpace, adjacency: Adjacency) -> Arch:
    """The architecture behind `to_adjacency`, idle decisions at their first choice."""
    import networkx

    graph: networkx.DiGraph[str] = networkx.DiGraph()
    for name, operator in zip(adjacency.names, adjacency.operators, strict=True):
        graph.add_node(name, op=operator)
    for row, column in np.argwhere(adjacency.matrix):
        graph.add_edge(adjacency.names[row], adjacency.names[column])
    return from_graph(space, graph)


def canonical_arch(space: SearchSpace, arch: Arch) -> Arch:
    """`arch` with every idle decision at its first choice."""
    return space.canonical_arch(arch) if isinstance(space, PlannedSpace) else arch


def canonical_hash(space: SearchSpace, arch: Arch) -> str:
    """sha256, in hexadecimal, that isomorphic architectures share.

    A space may have a published rule (`nasbench201`: 6,466 unlike cells). Elsewhere two are alike
    if they are the same operators on the same inputs, whatever the nodes are called and in whatever
    order sums and concatenations list them; a sum of sums is one sum, and zeros add nothing to it.
    """
    canonical = getattr(space, "canonical", None)
    if canonical is not None:
        text = str(canonical(arch))
    elif isinstance(space, PlannedSpace):
        text = _meaning(space.plan(arch))
    else:
        text = to_text(space, arch)
    return hashlib.sha256(text.encode()).hexdigest()


def _meaning(plan: Plan) -> str:
    """A text for what the output is, made of those of the inputs."""
    values = {IMAGE: IMAGE}
    summands: dict[str, list[str]] = {}
    for step in plan.steps:
        inputs = [values[name] for name in step.inputs]
        if step.key.kind == "add":
            parts = [p for name in step.inputs for p in summands.get(name, [values[name]])]
            parts = sorted(p for p in parts if not p.startswith("zeros")) or parts[:1]
            summands[step.name] = parts
            inputs = parts
        elif step.key.kind == "concat":
            inputs = sorted(inputs)
        text = f"{step.key}({','.join(inputs)})"
        values[step.name] = f"{step.key.kind}:{hashlib.sha256(text.encode()).hexdigest()}"
    return values[plan.output]


class _GraphWiring:
    """Wires one architecture as a graph, with everything that was chosen spelled out."""

    def __init__(self, space: WiredSpace, arch: Arch, graph: networkx.DiGraph[str]) -> None:
        self.space, self.arch, self.graph = space, arch, graph

    def op(self, name: str, key: OpKey, *inputs: Wire) -> Wire:
        return self._add(name, key.kind, inputs, output_shape(key))

    def choose(self, name: str, decision: int, keys: Sequence[OpKey | None], *inputs: Wire) -> Wire:
        label = self.space.decisions[decision].choices[self.arch[decision]]
        return self._add(name, label, inputs, shape_behind(keys, inputs[0].shape))

    def join(
        self, name: str, decision: int, options: Sequence[tuple[int, ...]], edges: Sequence[Edge]
    ) -> Wire:
        taken = options[self.arch[decision]]
        return self._add(name, _SUM, [self._along(edges[i]) for i in taken], edges[0].shape)

    def total(self, name: str, edges: Sequence[Edge]) -> Wire:
        return self._add(name, _SUM, [self._along(edge) for edge in edges], edges[0].shape)

    def or_zeros(self, name: str, wire: Wire, source: Wire) -> Wire:
        return wire

    def rest(
        self, name: str, base: Wire, edges: Sequence[Edge], takers: Sequence[tuple[Taker, ...]]
    ) -> Wire:
        free = [
            edge
            for edge, by in zip(edges, takers, strict=True)
            if all(self.arch[decision] != choice for decision, choice in by)
        ]
        return self._add(name, _SUM, [base, *map(self._along, free)], base.shape)

    def _along(self, edge: Edge) -> Wire:
        if edge.decision is not None:
            return self.choose(edge.name, edge.decision, edge.keys, edge.source)
        kind = "skip" if edge.keys[0] is None else edge.keys[0].kind
        return self._add(edge.name, kind, [edge.source], edge.shape)

    def _add(
        self, name: str, operator: str, inputs: Sequence[Wire], shape: tuple[int, int, int]
    ) -> Wire:
        self.graph.add_node(name, op=operator)
        for wire in inputs:
            self.graph.add_edge(str(wire.name), name)
        return Wire(name, shape)


class _GraphReading(_GraphWiring):
    """Reads the choices out of a graph; edges that are not in it leave theirs at the first."""

    def __init__(self, space: WiredSpace, graph: networkx.DiGraph[str]) -> None:
        super().__init__(space, (0,) * len(space.decisions), graph)
        self.read = [0] * len(space.decisions)

    def op(self, name: str, key: OpKey, *inputs: Wire) -> Wire:
        return Wire(name, output_shape(key))

    def choose(self, name: str, decision: int, keys: Sequence[OpKey | None], *inputs: Wire) -> Wire:
        if name in self.graph:
            label, known = self.graph.nodes[name]["op"], self.space.decisions[decision].choices
            if label not in known:
                raise BadInput(
                    f"{name} is {label!r} in the graph: {self.space.name} has {', '.join(known)} "
                    "there."
                )
            self.read[decision] = known.index(label)
        return Wire(name, shape_behind(keys, inputs[0].shape))

    def join(
        self, name: str, decision: int, options: Sequence[tuple[int, ...]], edges: Sequence[Edge]
    ) -> Wire:
        for edge in edges:
            self._along(edge)
        before = set(self.graph.predecessors(name)) if name in self.graph else set()
        taken = tuple(index for index, edge in enumerate(edges) if edge.name in before)
        if taken not in options:
            raise BadInput(f"{name} sums {sorted(before)} in the graph: no choice does.")
        self.read[decision] = options.index(taken)
        return Wire(name, edges[0].shape)

    def total(self, name: str, edges: Sequence[Edge]) -> Wire:
        for edge in edges:
            self._along(edge)
        return Wire(name, edges[0].shape)

    def rest(
        self, name: str, base: Wire, edges: Sequence[Edge], takers: Sequence[tuple[Taker, ...]]
    ) -> Wire:
        return Wire(name, base.shape)

    def _add(
        self, name: str, operator: str, inputs: Sequence[Wire], shape: tuple[int, int, int]
    ) -> Wire:
        return Wire(name, shape)
