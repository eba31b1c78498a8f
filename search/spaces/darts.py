"""DARTS: a normal and a reduction cell of four nodes, each node the sum of two edges.

Liu, Simonyan, Yang (ICLR 2019, arXiv:1806.09055), section 2.1 and appendix A.1: eight operators on
each of the 14 edges of a cell; which two edges end in a node is a decision of its own. The operator
of an edge that ends nowhere is kept as ``none``; it matters to nothing. The network is that of the
published evaluation on CIFAR-10, without the auxiliary head and without drop path.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random
from typing import Any

from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.cells import (
    Inputs,
    checked_layers,
    concatenated,
    decision_index,
    dil_conv,
    identity,
    pool,
    replaced,
    sep_conv,
    wire_cells,
)
from nasdeploy.search.space import Arch, Decision, Deployment, check_arch
from nasdeploy.search.wired_space import WiredSpace, checked_counts, checked_deployment
from nasdeploy.search.wiring import Edge, Shape, Wire, Wiring, add_key

OPERATORS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
NODES = 4
CELLS = ("normal", "reduction")
USUAL = Deployment((3, 32, 32), 10)

CellGenotype = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Genotype:
    """A published architecture: for each node two (operator, input), in a cell of each kind.

    Inputs 0 and 1 are the outputs of the two cells before, 2 to 5 the nodes.
    """

    normal: CellGenotype
    reduction: CellGenotype


# quark0/darts, cnn/genotypes.py: the first and second order searches on CIFAR-10
DARTS_V1 = Genotype(
    normal=(
        ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 0), ("sep_conv_3x3", 1),
        ("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("skip_connect", 2),
    ),
    reduction=(
        ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 0),
        ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("avg_pool_3x3", 0),
    ),
)  # fmt: skip
DARTS_V2 = Genotype(
    normal=(
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 0), ("sep_conv_3x3", 1),
        ("sep_conv_3x3", 1), ("skip_connect", 0), ("skip_connect", 0), ("dil_conv_3x3", 2),
    ),
    reduction=(
        ("max_pool_3x3", 0), ("max_pool_3x3", 1), ("skip_connect", 2), ("max_pool_3x3", 1),
        ("max_pool_3x3", 0), ("skip_connect", 2), ("skip_connect", 2), ("max_pool_3x3", 1),
    ),
)  # fmt: skip
# yuhuixu1993/PC-DARTS, genotypes.py: the search on CIFAR-10 (ICLR 2020, arXiv:1907.05737)
PCDARTS = Genotype(
    normal=(
        ("sep_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 0), ("dil_conv_3x3", 1),
        ("sep_conv_5x5", 0), ("sep_conv_3x3", 1), ("avg_pool_3x3", 0), ("dil_conv_3x3", 1),
    ),
    reduction=(
        ("sep_conv_5x5", 1), ("max_pool_3x3", 0), ("sep_conv_5x5", 1), ("sep_conv_5x5", 2),
        ("sep_conv_3x3", 0), ("sep_conv_3x3", 3), ("sep_conv_3x3", 1), ("sep_conv_3x3", 2),
    ),
)  # fmt: skip
GENOTYPES = {"DARTS_V1": DARTS_V1, "DARTS_V2": DARTS_V2, "PCDARTS": PCDARTS}


class DartsSpace(WiredSpace):
    """The cells of DARTS.

    Args:
        input_shape: (channels, height, width) of the network that ships.
        classes: Outputs of its head.
        channels: Of a node in the first cells; doubled by each reduction cell.
        layers: Cells, two of which are reduction cells.
        stem_multiplier: Channels of the stem, in those of a node.
        operators: What may stand on an edge, of the eight; without ``none`` every edge counts.
    Raises: `UnknownName`, or `UsageError` naming the number that makes no network.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] | None = None,
        classes: int | None = None,
        channels: int = 36,
        layers: int = 20,
        stem_multiplier: int = 3,
        operators: Sequence[str] = OPERATORS,
    ) -> None:
        self.name = "darts"
        self.deployment = checked_deployment(self.name, USUAL, input_shape, classes)
        checked_counts(self.name, channels=channels, stem_multiplier=stem_multiplier)
        checked_layers(self.name, layers)
        self.channels, self.layers, self.stem_multiplier = channels, layers, stem_multiplier
        self.operators = _checked_operators(operators)
        self.decisions = tuple(_decisions(self.operators))
        self._index = decision_index(self.decisions)

    @property
    def config(self) -> Mapping[str, Any]:
        changed = self.operators != OPERATORS
        return {
            "name": self.name,
            "input_shape": list(self.deployment.input_shape),
            "classes": self.deployment.classes,
            "channels": self.channels,
            "layers": self.layers,
            "stem_multiplier": self.stem_multiplier,
            **({"operators": list(self.operators)} if changed else {}),
        }

    def wire(self, net: Wiring, image: Wire, deployment: Deployment) -> Wire:
        return wire_cells(
            net,
            image,
            stem=self.stem_multiplier * self.channels,
            channels=self.channels,
            layers=self.layers,
            wire_cell=self._wire_cell,
        )

    def mutate(self, arch: Arch, rng: Random) -> Arch:
        """One decision that matters, changed; an edge that is moved takes its operator along."""
        child = super().mutate(arch, rng)
        for cell in CELLS:
            for node in range(1, NODES):
                before, after = (self.inputs_of(a, cell, node) for a in (arch, child))
                left = [source for source in before if source not in after]
                come = [source for source in after if source not in before]
                for old, new in zip(left, come, strict=True):
                    moved = arch[self._edge(cell, node, old)]
                    child = replaced(child, {self._edge(cell, node, new): moved})
        return self.canonical_arch(child)

    def idle(self, arch: Arch) -> frozenset[int]:
        """The decisions on edges that end nowhere."""
        check_arch(self, arch)
        return frozenset(
            self._edge(cell, node, source)
            for cell in CELLS
            for node in range(1, NODES)
            for source in range(node + 2)
            if source not in self.inputs_of(arch, cell, node)
        )

    def inputs_of(self, arch: Arch, cell: str, node: int) -> tuple[int, ...]:
        """The two inputs of a node: 0 and 1 the cells before, 2 and on the nodes."""
        if node == 0:
            return (0, 1)
        return pairs(node)[arch[self._index[f"{cell}.node{node}.inputs"]]]

    def arch_of(self, genotype: Genotype) -> Arch:
        """The architecture of a genotype; `UsageError` if it is not one of this space."""
        choices = [0] * len(self.decisions)
        for cell, entries in zip(CELLS, (genotype.normal, genotype.reduction), strict=True):
            for node in range(NODES):
                of_node = sorted(entries[2 * node : 2 * node + 2], key=lambda entry: entry[1])
                inputs = tuple(source for _, source in of_node)
                if len(of_node) != 2 or inputs not in pairs(node):
                    raise UsageError(
                        f"Node {node} of the {cell} cell has the inputs {list(inputs)}: it takes "
                        f"two different ones below {node + 2}."
                    )
                if node:
                    choices[self._index[f"{cell}.node{node}.inputs"]] = pairs(node).index(inputs)
                for operator, source in of_node:
                    if operator not in self.operators:
                        raise UnknownName("operator of darts", operator, self.operators)
                    at = self._edge(cell, node, source)
                    choices[at] = self.operators.index(operator)
        return tuple(choices)

    def genotype_of(self, arch: Arch) -> Genotype:
        """The genotype of an architecture, the inputs of each node in ascending order."""
        check_arch(self, arch)
        normal, reduction = (
            tuple(
                (self.operators[arch[self._edge(cell, node, source)]], source)
                for node in range(NODES)
                for source in self.inputs_of(arch, cell, node)
            )
            for cell in CELLS
        )
        return Genotype(normal, reduction)

    def _edge(self, cell: str, node: int, source: int) -> int:
        return self._index[f"{cell}.node{node}.from{source}"]

    def _wire_cell(self, net: Wiring, name: str, inputs: Inputs, reduction: bool) -> Wire:
        cell = CELLS[reduction]
        states = list(inputs)
        for node in range(NODES):
            edges = [
                Edge(
                    f"{name}_node{node}_from{source}",
                    state,
                    self._keys(state.shape, 2 if reduction and source < 2 else 1),
                    self._edge(cell, node, source),
                )
                for source, state in enumerate(states)
            ]
            at = f"{name}_node{node}"
            if node:
                decision = self._index[f"{cell}.node{node}.inputs"]
                states.append(net.join(at, decision, pairs(node), edges))
            else:
                both = [net.choose(e.name, e.decision or 0, e.keys, e.source) for e in edges]
                states.append(net.op(at, add_key(both[0].shape), *both))
        return concatenated(net, f"{name}_concat", states[2:])

    def _keys(self, shape: Shape, stride: int) -> tuple[OpKey | None, ...]:
        keys: dict[str, OpKey | None] = {
            "none": OpKey.of("zeros", [shape], stride=stride),
            "max_pool_3x3": pool("max_pool", shape, 3, stride),
            "avg_pool_3x3": pool("avg_pool", shape, 3, stride),
            "skip_connect": identity(shape, stride),
            "sep_conv_3x3": sep_conv(shape, 3, stride),
            "sep_conv_5x5": sep_conv(shape, 5, stride),
            "dil_conv_3x3": dil_conv(shape, 3, stride),
            "dil_conv_5x5": dil_conv(shape, 5, stride),
        }
        return tuple(keys[operator] for operator in self.operators)


def pairs(node: int) -> tuple[tuple[int, ...], ...]:
    """The pairs of inputs that a node can have."""
    return tuple(combinations(range(node + 2), 2))


def _decisions(operators: tuple[str, ...]) -> Iterable[Decision]:
    for cell in CELLS:
        for node in range(NODES):
            if node:
                labels = tuple(f"{first}+{second}" for first, second in pairs(node))
                yield Decision(f"{cell}.node{node}.inputs", labels)
            for source in range(node + 2):
                yield Decision(f"{cell}.node{node}.from{source}", operators)


def _checked_operators(operators: Sequence[str]) -> tuple[str, ...]:
    for operator in operators:
        if operator not in OPERATORS:
            raise UnknownName("operator of darts", operator, OPERATORS)
    if len(set(operators)) != len(operators) or not operators:
        raise UsageError(
            f"operators of darts is {list(operators)}: each of the eight at most once."
        )
    return tuple(operators)
