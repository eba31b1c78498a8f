"""NAS-Bench-201: all 15,625 cells of four nodes, with five operators on each of the six edges.

Dong and Yang (ICLR 2020, arXiv:2001.00326), section 2 and figure 1: a 3x3 stem, three stages of
``cells`` cells with a residual block of stride 2 between them, global average pooling. A node is
the sum of its edges.

What is built has the published parameters. An operator on which the output does not depend, or
whose input is zero whatever the image, is not computed and costs nothing, since no exported file
contains it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import product
from typing import Any

from nasdeploy.errors import BadInput, UnknownName
from nasdeploy.latency_tables.cost import CostTerm
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.space import Arch, Decision, Deployment, check_arch
from nasdeploy.search.wired_space import WiredSpace, checked_counts, checked_deployment
from nasdeploy.search.wiring import (
    IMAGE,
    Edge,
    PlanWiring,
    Shape,
    TermWiring,
    Wire,
    Wiring,
    add_key,
)

OPERATORS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))
"""(from, to) in the order of the published strings, which is that of the decisions."""

USUAL = Deployment((3, 32, 32), 10)


class NasBench201Space(WiredSpace):
    """The cells of NAS-Bench-201, at the published size or another.

    Args:
        input_shape: (channels, height, width) of the network that ships.
        classes: Outputs of its head.
        channels: Of the first stage; each stage has twice those of the one before.
        cells: Of each stage.
    Raises: `UsageError` naming the number that makes no network.
    """

    keep_spare = True
    once = True

    def __init__(
        self,
        *,
        input_shape: Sequence[int] | None = None,
        classes: int | None = None,
        channels: int = 16,
        cells: int = 5,
    ) -> None:
        self.name = "nasbench201"
        self.deployment = checked_deployment(self.name, USUAL, input_shape, classes)
        checked_counts(self.name, channels=channels, cells=cells)
        self.channels, self.cells = channels, cells
        self.decisions = tuple(
            Decision(f"node{to}.from{source}", OPERATORS) for source, to in EDGES
        )

    @property
    def config(self) -> Mapping[str, Any]:
        return {
            "name": self.name,
            "input_shape": list(self.deployment.input_shape),
            "classes": self.deployment.classes,
            "channels": self.channels,
            "cells": self.cells,
        }

    def wire(self, net: Wiring, image: Wire, deployment: Deployment) -> Wire:
        x = self._between(net, 0, image)
        for stage in (1, 2, 3):
            for cell in range(1, self.cells + 1):
                x = _wire_cell(net, f"stage{stage}_cell{cell}", x)
            x = self._between(net, stage, x)
        return x

    def cost_terms(self) -> tuple[CostTerm, ...]:
        net = TermWiring(self.decisions)
        wire = self._between(net, 0, Wire(IMAGE, self.deployment.input_shape))
        for stage in (1, 2, 3):
            names = {name: str(key) for name, key in _cell_keys(wire.shape).items()}
            costs = {
                cell: tuple(names[part] for part in cell) for cell in dict.fromkeys(cell_parts())
            }
            for _ in range(self.cells):
                net.add(tuple(range(len(EDGES))), [costs[cell] for cell in cell_parts()])
            wire = self._between(net, stage, wire)
        return net.finish(self.head_key(wire.shape))

    def canonical(self, arch: Arch) -> str:
        """The published text that is the same for isomorphic cells, with zeros identified."""
        check_arch(self, arch)
        return unique_string(arch, zeros=True)

    def _between(self, net: Wiring, stage: int, x: Wire) -> Wire:
        """The stem, the residual blocks of stride 2, and the last activation."""
        if stage == 0:
            return net.op("stem", OpKey.of("conv_bn", [x.shape], kernel=3, out=self.channels,
                                           stride=1), x)  # fmt: skip
        if stage == 3:
            return net.op("last", OpKey.of("bn_relu", [x.shape]), x)
        key = OpKey.of("residual_reduce", [x.shape], out=self.channels * 2**stage, stride=2)
        return net.op(f"reduce{stage}", key, x)


def _operator(operator: str, shape: Shape) -> OpKey | None:
    if operator == "skip_connect":
        return None
    if operator == "none":
        return OpKey.of("zeros", [shape], stride=1)
    if operator == "avg_pool_3x3":
        return OpKey.of("avg_pool", [shape], kernel=3, stride=1)
    kernel = 1 if operator == "nor_conv_1x1" else 3
    return OpKey.of("relu_conv_bn", [shape], kernel=kernel, out=shape[0], stride=1)


def _wire_cell(net: Wiring, name: str, x: Wire) -> Wire:
    keys = tuple(_operator(operator, x.shape) for operator in OPERATORS)
    nodes = [x]
    for to in (1, 2, 3):
        edges = [
            Edge(f"{name}_node{to}_from{source}", nodes[source], keys, decision)
            for decision, (source, end) in enumerate(EDGES)
            if end == to
        ]
        nodes.append(net.total(f"{name}_node{to}", edges))
    return net.or_zeros(f"{name}_zeros", nodes[-1], x)


def _cell_keys(shape: Shape) -> dict[str, OpKey]:
    """What a cell can cost, by the kind and kernel that `cell_parts` speaks of."""
    keys = [key for operator in OPERATORS if (key := _operator(operator, shape))]
    return {_part(key): key for key in (*keys, add_key(shape))}


def _part(key: OpKey) -> str:
    return f"{key.kind}{key.attribute.get('kernel', '')}"


@cache
def cell_parts() -> tuple[tuple[str, ...], ...]:
    """For each cell, in row-major order, the operators that are computed in it."""
    shape = (1, 1, 1)
    parts = []
    for arch in product(range(len(OPERATORS)), repeat=len(EDGES)):
        net = PlanWiring(arch, once=True)
        x = net.op("input", add_key(shape), Wire(IMAGE, shape))
        plan = net.finish(_wire_cell(net, "cell", x))
        parts.append(tuple(_part(step.key) for step in plan.steps if step.name != "input"))
    return tuple(parts)


def to_string(arch: Arch) -> str:
    """The published text of a cell: ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|``."""
    nodes: dict[int, str] = {}
    for (source, to), choice in zip(EDGES, arch, strict=True):
        nodes[to] = f"{nodes.get(to, '|')}{OPERATORS[choice]}~{source}|"
    return "+".join(nodes[to] for to in sorted(nodes))


def from_string(text: str) -> Arch:
    """The cell behind a published text; `BadInput` or `UnknownName` if it is none."""
    entries = [entry for node in text.split("+") for entry in node.strip("|").split("|")]
    choices = []
    for entry, (source, _) in zip(entries, EDGES, strict=False):
        operator, _, origin = entry.partition("~")
        if origin == str(source) and operator not in OPERATORS:
            raise UnknownName("operator of nasbench201", operator, OPERATORS)
        choices.append(OPERATORS.index(operator) if operator in OPERATORS else 0)
    arch = tuple(choices)
    if len(arch) != len(EDGES) or to_string(arch) != text:
        raise BadInput(
            f"{text!r} is no cell of nasbench201; one reads like {to_string((3, 0, 1, 2, 4, 3))}."
        )
    return arch


def unique_string(arch: Arch, *, zeros: bool) -> str:
    """The published text of what a cell computes: equal texts, isomorphic cells.

    The rule of the authors' code (`CellStructure.to_unique_str`): a node is the sorted sum of its
    edges, ``skip_connect`` is the node it comes from. With `zeros`, an edge that is ``none``, or
    comes from a node that is one single zero, is ``#``; without, ``none`` is an operator like any
    other. 6,466 texts with, 12,751 without. A sum keeps its zeros and its brackets, so that some
    cells that compute the same have two texts.
    """
    nodes = ["0"]
    for to in (1, 2, 3):
        parts = []
        for (source, end), choice in zip(EDGES, arch, strict=True):
            operator = OPERATORS[choice]
            if end != to:
                continue
            if zeros and (operator == "none" or nodes[source] == "#"):
                parts.append("#")
            elif operator == "skip_connect":
                parts.append(nodes[source])
            else:
                parts.append(f"({nodes[source]})@{operator}")
        nodes.append("+".join(sorted(parts)))
    return nodes[-1]
