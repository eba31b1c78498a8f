"""ENAS: whole networks of layers with skip connections, and cells of blocks with loose ends.

Pham et al. (ICML 2018, arXiv:1802.03268): the macro space of section 2.3 (12 layers of 6 operators,
and for each earlier layer whether it is added), the micro space of section 2.4 (a normal and a
reduction cell, five blocks of two inputs and two of 5 operators).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.cells import (
    Blocks,
    Inputs,
    checked_layers,
    conv_bn,
    decision_index,
    factorized_reduce,
    identity,
    pool,
    relu_conv_bn,
    sep_conv,
    wire_cells,
)
from nasdeploy.search.space import Decision, Deployment
from nasdeploy.search.wired_space import WiredSpace, checked_counts, checked_deployment
from nasdeploy.search.wiring import Edge, Shape, Wire, Wiring

MACRO_OPERATORS = {
    "conv_3x3": ("conv", 3),
    "conv_5x5": ("conv", 5),
    "sep_conv_3x3": ("sep_conv", 3),
    "sep_conv_5x5": ("sep_conv", 5),
    "avg_pool_3x3": ("avg_pool", 3),
    "max_pool_3x3": ("max_pool", 3),
}
MICRO_OPERATORS = ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "identity")
CELLS = ("normal", "reduction")
USUAL = Deployment((3, 32, 32), 10)


class EnasMacroSpace(WiredSpace):
    """Layers with skip connections.

    Args:
        input_shape: (channels, height, width) of the network that ships.
        classes: Outputs of its head.
        channels: Of every layer.
        layers: The size is halved behind a third and behind two thirds of them.
    Raises: `UsageError` naming the number that makes no network.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] | None = None,
        classes: int | None = None,
        channels: int = 36,
        layers: int = 12,
    ) -> None:
        self.name = "enas-macro"
        self.deployment = checked_deployment(self.name, USUAL, input_shape, classes)
        checked_counts(self.name, channels=channels)
        if not isinstance(layers, int) or layers < 3:
            raise UsageError(f"layers of {self.name} is {layers!r}: a whole number above 2.")
        self.channels, self.layers = channels, layers
        self.decisions = tuple(
            decision
            for layer in range(layers)
            for decision in (
                Decision(f"layer{layer}.operator", tuple(MACRO_OPERATORS)),
                *(Decision(f"layer{layer}.skip{early}", ("no", "yes")) for early in range(layer)),
            )
        )
        self._index = decision_index(self.decisions)

    @property
    def config(self) -> Mapping[str, Any]:
        return {
            "name": self.name,
            "input_shape": list(self.deployment.input_shape),
            "classes": self.deployment.classes,
            "channels": self.channels,
            "layers": self.layers,
        }

    def wire(self, net: Wiring, image: Wire, deployment: Deployment) -> Wire:
        x = net.op("stem", conv_bn(image.shape, 3, self.channels), image)
        outputs: list[Wire] = []
        third = self.layers // 3
        for layer in range(self.layers):
            x = self._wire_layer(net, layer, x, outputs)
            if layer + 1 in (third, 2 * third):
                x = net.op(f"reduce{layer}", factorized_reduce(x.shape, self.channels), x)
            outputs.append(x)
        return x

    def _wire_layer(self, net: Wiring, layer: int, x: Wire, outputs: Sequence[Wire]) -> Wire:
        name = f"layer{layer}"
        keys = [
            OpKey.of("branch", [x.shape], body=body, kernel=kernel)
            for body, kernel in MACRO_OPERATORS.values()
        ]
        y = net.choose(f"{name}_operator", self._index[f"{name}.operator"], keys, x)
        for early, wire in enumerate(outputs):
            edges = [
                Edge(f"{name}_main{early}", y),
                Edge(f"{name}_from{early}", wire, (_shrunk(wire.shape, y.shape),)),
            ]
            decision = self._index[f"{name}.skip{early}"]
            y = net.join(f"{name}_skip{early}", decision, [(0,), (0, 1)], edges)
        return net.op(f"{name}_norm", OpKey.of("batch_norm", [y.shape]), y)


def _shrunk(shape: Shape, to: Shape) -> OpKey | None:
    """The pool that brings an earlier layer to the size of a later one."""
    halvings, size = 0, shape[1:]
    while size != to[1:]:
        size = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        halvings += 1
    stride: int = 2**halvings
    return None if stride == 1 else pool("avg_pool", shape, stride + 1, stride)


class EnasMicroSpace(WiredSpace):
    """Cells of blocks.

    Args:
        input_shape: (channels, height, width) of the network that ships.
        classes: Outputs of its head.
        channels: Of a block in the first cells; doubled by each reduction cell.
        layers: Cells, two of which are reduction cells; 3 N + 2 in the paper's N.
        blocks: Of a cell; the paper's B counts its two inputs too.
        stem_multiplier: Channels of the stem, in those of a block.
    Raises: `UsageError` naming the number that makes no network.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] | None = None,
        classes: int | None = None,
        channels: int = 36,
        layers: int = 17,
        blocks: int = 5,
        stem_multiplier: int = 3,
    ) -> None:
        self.name = "enas-micro"
        self.deployment = checked_deployment(self.name, USUAL, input_shape, classes)
        checked_counts(self.name, channels=channels, blocks=blocks, stem_multiplier=stem_multiplier)
        checked_layers(self.name, layers)
        self.channels, self.layers, self.stem_multiplier = channels, layers, stem_multiplier
        self.cells = tuple(Blocks(f"{cell}.", blocks, MICRO_OPERATORS, _keys) for cell in CELLS)
        self.decisions = tuple(d for cell in self.cells for d in cell.decisions())
        self._index = decision_index(self.decisions)

    @property
    def config(self) -> Mapping[str, Any]:
        return {
            "name": self.name,
            "input_shape": list(self.deployment.input_shape),
            "classes": self.deployment.classes,
            "channels": self.channels,
            "layers": self.layers,
            "blocks": self.cells[0].count,
            "stem_multiplier": self.stem_multiplier,
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

    def _wire_cell(self, net: Wiring, name: str, inputs: Inputs, reduction: bool) -> Wire:
        """Loose ends, the cell's inputs among them, each through a 1x1 convolution, are summed.

        A 1x1 convolution over their concatenation is that sum.
        """
        cell = self.cells[reduction]
        *early, last = cell.wire(net, name, inputs, reduction, self._index)
        channels = last.shape[0]
        edges = [
            Edge(
                f"{name}_end{source}",
                wire,
                (
                    factorized_reduce(wire.shape, channels)
                    if wire.shape[1:] != last.shape[1:]
                    else relu_conv_bn(wire.shape, 1, channels),
                ),
            )
            for source, wire in enumerate(early)
        ]
        takers = [cell.takers(source, self._index) for source in range(len(early))]
        base = net.op(f"{name}_last", relu_conv_bn(last.shape, 1, channels), last)
        return net.rest(f"{name}_ends", base, edges, takers)


def _keys(shape: Shape, stride: int) -> tuple[OpKey | None, ...]:
    """In the order of `MICRO_OPERATORS`."""
    return (
        sep_conv(shape, 3, stride),
        sep_conv(shape, 5, stride),
        pool("avg_pool", shape, 3, stride),
        pool("max_pool", shape, 3, stride),
        identity(shape, stride),
    )
