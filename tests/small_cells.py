"""A space of one cell with two nodes, small enough that all of its architectures are looked at."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.cells import conv_bn, pool, relu_conv_bn, sep_conv
from nasdeploy.search.space import Decision, Deployment
from nasdeploy.search.wired_space import WiredSpace
from nasdeploy.search.wiring import Edge, Wire, Wiring, add_key

OPERATORS = ("none", "skip_connect", "avg_pool_3x3", "sep_conv_3x3")
PAIRS = tuple(combinations(range(3), 2))


class OneCell(WiredSpace):
    """Node 0 has both inputs, node 1 two of three: 4**5 * 3 architectures, idle edges included."""

    def __init__(
        self, *, channels: int = 8, input_shape: tuple[int, int, int] = (1, 12, 12)
    ) -> None:
        self.name = "one-cell"
        self.channels = channels
        self.deployment = Deployment(input_shape, 4)
        self.decisions = (
            Decision("node0.from0", OPERATORS),
            Decision("node0.from1", OPERATORS),
            Decision("node1.inputs", tuple(f"{a}+{b}" for a, b in PAIRS)),
            *(Decision(f"node1.from{source}", OPERATORS) for source in range(3)),
        )

    @property
    def config(self) -> Mapping[str, Any]:
        return {"name": self.name, "channels": self.channels}

    def wire(self, net: Wiring, image: Wire, deployment: Deployment) -> Wire:
        stem = net.op("stem", conv_bn(image.shape, 3, self.channels, 2), image)
        states = [stem, net.op("second", relu_conv_bn(stem.shape, 1, self.channels), stem)]
        shape = stem.shape
        keys = (
            OpKey.of("zeros", [shape], stride=1), None, pool("avg_pool", shape, 3, 1),
            sep_conv(shape, 3, 1),
        )  # fmt: skip
        both = [net.choose(f"node0_from{i}", i, keys, state) for i, state in enumerate(states)]
        states.append(net.op("node0", add_key(shape), *both))
        edges = [Edge(f"node1_from{i}", state, keys, 3 + i) for i, state in enumerate(states)]
        return net.join("node1", 2, PAIRS, edges)
