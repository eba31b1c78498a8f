"""PNAS: one cell of five blocks, each the sum of two operators on two inputs.

Liu et al. (ECCV 2018, arXiv:1712.00559), section 3.1: a block takes two of the outputs of the two
cells before and of the blocks before it, eight operators, and combines by addition. The same cell
stands everywhere; as a reduction cell it has stride 2 on the cells before. The blocks' outputs are
concatenated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.cells import (
    SIDES,
    Blocks,
    Inputs,
    checked_layers,
    concatenated,
    decision_index,
    dil_conv,
    identity,
    pool,
    sep_conv,
    wire_cells,
)
from nasdeploy.search.space import Arch, Decision, Deployment
from nasdeploy.search.wired_space import WiredSpace, checked_counts, checked_deployment
from nasdeploy.search.wiring import Edge, Shape, Wire, Wiring

OPERATORS = (
    "sep_conv_3x3",
    "sep_conv_5x5",
    "sep_conv_7x7",
    "conv_1x7_7x1",
    "identity",
    "avg_pool_3x3",
    "max_pool_3x3",
    "dil_conv_3x3",
)
COMBINATIONS = ("add", "concat")
USUAL = Deployment((3, 32, 32), 10)

# figure 1, left: for each block (input, operator) twice; input 0 is cell k - 2, 1 is cell k - 1
PNASNET_5 = (
    ((0, "sep_conv_5x5"), (0, "max_pool_3x3")),
    ((1, "sep_conv_7x7"), (1, "max_pool_3x3")),
    ((1, "sep_conv_5x5"), (1, "sep_conv_3x3")),
    ((4, "sep_conv_3x3"), (1, "max_pool_3x3")),
    ((0, "sep_conv_3x3"), (1, "identity")),
)


class PnasSpace(WiredSpace):
    """The cells of PNAS.

    Args:
        input_shape: (channels, height, width) of the network that ships.
        classes: Outputs of its head.
        channels: Of a block in the first cells (the paper's F); doubled by each reduction cell.
        layers: Cells, two of which are reduction cells; 3 N + 2 in the paper's N.
        blocks: Of a cell.
        stem_multiplier: Channels of the stem, in those of a block.
        combinations: How the operands of a block may be combined: ``add``, and ``concat`` with a
            1x1 convolution behind it. A decision where there are several.
    Raises: `UnknownName`, or `UsageError` naming the number that makes no network.
    """

    def __init__(
        self,
        *,
        input_shape: Sequence[int] | None = None,
        classes: int | None = None,
        channels: int = 48,
        layers: int = 11,
        blocks: int = 5,
        stem_multiplier: int = 3,
        combinations: Sequence[str] = ("add",),
    ) -> None:
        self.name = "pnas"
        self.deployment = checked_deployment(self.name, USUAL, input_shape, classes)
        checked_counts(self.name, channels=channels, blocks=blocks, stem_multiplier=stem_multiplier)
        checked_layers(self.name, layers)
        for combination in combinations:
            if combination not in COMBINATIONS:
                raise UnknownName("combination of pnas", combination, COMBINATIONS)
        if not combinations or len(set(combinations)) != len(combinations):
            raise UsageError(f"combinations of pnas is {list(combinations)}: add, concat or both.")
        self.channels, self.layers, self.stem_multiplier = channels, layers, stem_multiplier
        self.blocks = Blocks("", blocks, OPERATORS, _keys, combinations)
        self.decisions: tuple[Decision, ...] = tuple(self.blocks.decisions())
        self._index = decision_index(self.decisions)

    @property
    def config(self) -> Mapping[str, Any]:
        return {
            "name": self.name,
            "input_shape": list(self.deployment.input_shape),
            "classes": self.deployment.classes,
            "channels": self.channels,
            "layers": self.layers,
            "blocks": self.blocks.count,
            "stem_multiplier": self.stem_multiplier,
            "combinations": list(self.blocks.combinations),
        }

    def arch_of(self, cell: Sequence[Sequence[tuple[int, str]]]) -> Arch:
        """The architecture of a cell written as `PNASNET_5` is, combined by addition."""
        choices = [0] * len(self.decisions)
        if len(cell) != self.blocks.count:
            raise UsageError(f"A cell of {len(cell)} blocks: this space has {self.blocks.count}.")
        for block, operands in enumerate(cell):
            for side, (source, operator) in zip(SIDES, operands, strict=True):
                if operator not in OPERATORS:
                    raise UnknownName("operator of pnas", operator, OPERATORS)
                if not 0 <= source < block + 2:
                    raise UsageError(f"Block {block} takes input {source}: it has {block + 2}.")
                choices[self._index[self.blocks.label(block, side, "input")]] = source
                at = self._index[self.blocks.label(block, side, "operator")]
                choices[at] = OPERATORS.index(operator)
        return tuple(choices)

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
        states = self.blocks.wire(net, name, inputs, reduction, self._index)
        # A cell that did not look at one of its inputs would leave the cell behind that input
        # without effect; so an input that no block takes is added to the last block.
        halved = pool("max_pool", inputs[0].shape, 3, 2) if reduction else None
        edges = [
            Edge(f"{name}_unused{source}", wire, (halved,)) for source, wire in enumerate(inputs)
        ]
        takers = [self.blocks.takers(source, self._index) for source in (0, 1)]
        states[-1] = net.rest(f"{name}_unused", states[-1], edges, takers)
        return concatenated(net, f"{name}_concat", states[2:])


def _keys(shape: Shape, stride: int) -> tuple[OpKey | None, ...]:
    """In the order of `OPERATORS`."""
    return (
        sep_conv(shape, 3, stride),
        sep_conv(shape, 5, stride),
        sep_conv(shape, 7, stride),
        OpKey.of("factorized_conv", [shape], kernel=7, stride=stride),
        identity(shape, stride),
        pool("avg_pool", shape, 3, stride),
        pool("max_pool", shape, 3, stride),
        dil_conv(shape, 3, stride),
    )
