"""Cells of two inputs, stacked: the outer shape that DARTS, PNAS and ENAS share.

Cell k sees the outputs of cells k - 1 and k - 2 (NASNet, CVPR 2018, arXiv:1707.07012, figure 2).
Both are first brought to the cell's channels and size by what DARTS calls the preprocessing. At a
third and at two thirds of the depth stands a reduction cell: half the size, twice the channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.space import Arch, Decision
from nasdeploy.search.wiring import Shape, Wire, Wiring

Inputs = tuple[Wire, Wire]
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


def concatenated(net: Wiring, name: str, wires: Sequence[Wire]) -> Wire:
    """The channels of all wires one behind the other."""
    return net.op(name, OpKey.of("concat", [wire.shape for wire in wires]), *wires)


def decision_index(decisions: Sequence[Decision]) -> dict[str, int]:
    """Where the decision of a label stands."""
    return {decision.label: index for index, decision in enumerate(decisions)}


def replaced(arch: Arch, changes: dict[int, int]) -> Arch:
    """`arch` with some choices changed."""
    return tuple(changes.get(index, choice) for index, choice in enumerate(arch))
