"""Cells of two inputs, stacked: the outer shape that DARTS, PNAS and ENAS share.

Cell k sees the outputs of cells k - 1 and k - 2 (NASNet, CVPR 2018, arXiv:1707.07012, figure 2).
Both are first brought to the cell's channels and size by what DARTS calls the preprocessing. At a
third and at two thirds of the depth stands a reduction cell: half the size, twice the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.space import Arch, Decision
from nasdeploy.search.wiring import Edge, Shape, Taker, Wire, Wiring, add_key

Inputs = tuple[Wire, Wire]
SIDES = ("left", "right")
WireCell = Callable[[Wiring, str, Inputs, bool], Wire]
"""(net, name of the cell, its two inputs, is it a reduction cell) to its output."""


def reduction_layers(layers: int) -> tuple[int, int]:
    """Which cells halve the size."""
    return layers // 3, 2 * layers // 3


def wire_cells(
    net: Wiring, image: Wire, *, stem: int, channels: int, layers: int, wire_cell: WireCell
) -> Wire:
    """A 3x3 stem and `layers` cells.

    Args:
        stem: Channels of the stem.
        channels: Of every node of the first cells.
    """
    before = last = net.op("stem", conv_bn(image.shape, 3, stem), image)
    for layer in range(layers):
        reduction = layer in reduction_layers(layers)
        channels *= 2 if reduction else 1
        name = f"cell{layer}"
        inputs = _preprocessed(net, name, (before, last), channels)
        before, last = last, wire_cell(net, name, inputs, reduction)
    return last


def _preprocessed(net: Wiring, name: str, inputs: Inputs, channels: int) -> Inputs:
    before, last = inputs
    if before.shape[1:] == last.shape[1:]:
        key = relu_conv_bn(before.shape, 1, channels)
    else:
        key = factorized_reduce(before.shape, channels)
    return (
        net.op(f"{name}_preprocess0", key, before),
        net.op(f"{name}_preprocess1", relu_conv_bn(last.shape, 1, channels), last),
    )


def checked_layers(name: str, layers: int) -> None:
    """`UsageError` where there is no room for two reduction cells."""
    if not isinstance(layers, int) or layers < 3:
        raise UsageError(f"layers of {name} is {layers!r}: it must be a whole number above 2.")


def conv_bn(shape: Shape, kernel: int, out: int, stride: int = 1) -> OpKey:
    return OpKey.of("conv_bn", [shape], kernel=kernel, out=out, stride=stride)


def relu_conv_bn(shape: Shape, kernel: int, out: int, stride: int = 1) -> OpKey:
    return OpKey.of("relu_conv_bn", [shape], kernel=kernel, out=out, stride=stride)


def factorized_reduce(shape: Shape, out: int) -> OpKey:
    return OpKey.of("factorized_reduce", [shape], out=out, stride=2)


def pool(kind: str, shape: Shape, kernel: int, stride: int) -> OpKey:
    return OpKey.of(kind, [shape], kernel=kernel, stride=stride)


def sep_conv(shape: Shape, kernel: int, stride: int) -> OpKey:
    return OpKey.of("sep_conv", [shape], kernel=kernel, stride=stride)


def dil_conv(shape: Shape, kernel: int, stride: int) -> OpKey:
    return OpKey.of("depthwise_separable", [shape], dilation=2, kernel=kernel, stride=stride)


def identity(shape: Shape, stride: int) -> OpKey | None:
    """Nothing at stride 1; at stride 2 a factorized reduction."""
    return None if stride == 1 else factorized_reduce(shape, shape[0])


class Blocks:
    """The blocks of a cell of PNAS or ENAS: two operands each, combined.

    An operand is an input (0 and 1 the cells before, 2 and on the blocks) and an operator on it.

    Args:
        prefix: Of the labels of its decisions; empty for a space with one kind of cell.
        keys: The operators' keys, given a shape and a stride.
    """

    def __init__(
        self,
        prefix: str,
        count: int,
        operators: Sequence[str],
        keys: Callable[[Shape, int], Sequence[OpKey | None]],
        combinations: Sequence[str] = ("add",),
    ) -> None:
        self.prefix, self.count, self.keys = prefix, count, keys
        self.operators, self.combinations = tuple(operators), tuple(combinations)

    def decisions(self) -> Iterator[Decision]:
        """For each block its inputs, then its operators, then how they are combined."""
        for block in range(self.count):
            inputs = tuple(map(str, range(block + 2)))
            for side in SIDES:
                yield Decision(self.label(block, side, "input"), inputs)
            for side in SIDES:
                yield Decision(self.label(block, side, "operator"), self.operators)
            if len(self.combinations) > 1:
                yield Decision(f"{self.prefix}block{block}.combination", self.combinations)

    def label(self, block: int, side: str, what: str) -> str:
        return f"{self.prefix}block{block}.{side}.{what}"

    def wire(
        self, net: Wiring, name: str, inputs: Inputs, reduction: bool, index: Mapping[str, int]
    ) -> list[Wire]:
        """The two inputs, and the blocks.

        Args:
            index: Where the decision of a label stands in the space.
        """
        states = list(inputs)
        for block in range(self.count):
            sides = []
            for side in SIDES:
                operator = index[self.label(block, side, "operator")]
                edges = [
                    Edge(
                        f"{name}_block{block}_{side}_from{source}",
                        state,
                        tuple(self.keys(state.shape, 2 if reduction and source < 2 else 1)),
                        operator,
                    )
                    for source, state in enumerate(states)
                ]
                options = [(source,) for source in range(len(states))]
                decision = index[self.label(block, side, "input")]
                sides.append(net.join(f"{name}_block{block}_{side}", decision, options, edges))
            states.append(self._combined(net, f"{name}_block{block}", block, sides, index))
        return states

    def takers(self, source: int, index: Mapping[str, int]) -> tuple[Taker, ...]:
        """The decisions that can take an input or a block as an operand."""
        return tuple(
            (index[self.label(block, side, "input")], source)
            for block in range(max(0, source - 1), self.count)
            for side in SIDES
        )

    def _combined(
        self, net: Wiring, name: str, block: int, sides: Sequence[Wire], index: Mapping[str, int]
    ) -> Wire:
        shapes = [wire.shape for wire in sides]
        ways = {"add": add_key(shapes[0]), "concat": OpKey.of("concat_conv_bn", shapes)}
        keys = [ways[combination] for combination in self.combinations]
        if len(keys) == 1:
            return net.op(f"{name}_combined", keys[0], *sides)
        decision = index[f"{self.prefix}block{block}.combination"]
        return net.choose(f"{name}_combined", decision, keys, *sides)


def concatenated(net: Wiring, name: str, wires: Sequence[Wire]) -> Wire:
    """The channels of all wires one behind the other."""
    return net.op(name, OpKey.of("concat", [wire.shape for wire in wires]), *wires)


def decision_index(decisions: Sequence[Decision]) -> dict[str, int]:
    """Where the decision of a label stands."""
    return {decision.label: index for index, decision in enumerate(decisions)}


def replaced(arch: Arch, changes: dict[int, int]) -> Arch:
    """`arch` with some choices changed."""
    return tuple(changes.get(index, choice) for index, choice in enumerate(arch))
