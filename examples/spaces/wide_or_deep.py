"""A space as a class: a few wide blocks or many narrow ones.

    cd examples/spaces
    nasdeploy space show wide_or_deep:WideOrDeep

The channels are one decision for the whole network, so every block's cost looks at two decisions:
how wide, and what stands there. `PlannedSpace` needs the plan of an architecture and the terms of
the cost; it builds networks and draws architectures by itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from nasdeploy.latency_tables.cost import CostTerm
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.space import Arch, Decision, Deployment
from nasdeploy.search.supernet import Choice, Mixing, Supernet
from nasdeploy.search.task import Task
from nasdeploy.search.wired import Network
from nasdeploy.search.wired_space import PlannedSpace
from nasdeploy.search.wiring import IMAGE, Plan, PlanWiring, TermWiring, Wire, output_shape

WIDTHS = (16, 32)
KERNELS = (3, 5, 7)


class WideOrDeep(PlannedSpace):
    """A stem, and blocks that may be left out."""

    def __init__(
        self, *, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, blocks: int = 4
    ) -> None:
        channels, height, width = input_shape
        self.name = "wide_or_deep:WideOrDeep"
        self.deployment = Deployment((channels, height, width), classes)
        self.blocks = blocks
        kernels = (*(f"k{kernel}" for kernel in KERNELS), "skip")
        self.decisions = (
            Decision("width", tuple(map(str, WIDTHS))),
            *(Decision(f"block{block}", kernels) for block in range(blocks)),
        )

    @property
    def config(self) -> Mapping[str, Any]:
        return {
            "name": self.name,
            "input_shape": list(self.deployment.input_shape),
            "classes": self.deployment.classes,
            "blocks": self.blocks,
        }

    def keys(self, deployment: Deployment, width: int) -> tuple[OpKey, list[OpKey]]:
        """The stem, and what a block may be, at one of the widths."""
        stem = OpKey.of(
            "conv_bn_relu6", [deployment.input_shape], kernel=3, out=WIDTHS[width], stride=2
        )
        shape = output_shape(stem)
        return stem, [
            OpKey.of("mbconv", [shape], expand=3, kernel=kernel, out=shape[0], stride=1)
            for kernel in KERNELS
        ]

    def plan(self, arch: Arch, deployment: Deployment | None = None) -> Plan:
        deployment = deployment or self.deployment
        stem, blocks = self.keys(deployment, arch[0])
        net = PlanWiring(arch)
        x = net.op("stem", stem, Wire(IMAGE, deployment.input_shape))
        for block in range(self.blocks):
            x = net.choose(f"block{block}", 1 + block, [*blocks, None], x)
        return net.finish(x)

    def cost_terms(self) -> tuple[CostTerm, ...]:
        net = TermWiring(self.decisions)
        both = [self.keys(self.deployment, width) for width in range(len(WIDTHS))]
        heads = [self.head_key(output_shape(stem)) for stem, _ in both]
        net.add((0,), [(str(stem), str(h)) for (stem, _), h in zip(both, heads, strict=True)])
        rows = [row for _, blocks in both for row in [*((str(key),) for key in blocks), ()]]
        for block in range(self.blocks):
            net.add((0, 1 + block), rows)
        return net.finish()

    def supernet(
        self, mixing: Mixing, *, task: Task, deployment: Deployment | None = None
    ) -> Supernet:
        """Each width has weights of its own, behind a choice of the width."""
        from torch import nn

        from nasdeploy.search.ops import op_module

        deployment = deployment or self.deployment
        widths = [self.keys(deployment, width) for width in range(len(WIDTHS))]
        parts: list[tuple[str, nn.Module, tuple[str, ...]]] = [
            ("stem", Choice(0, [op_module(stem) for stem, _ in widths], mixing), (IMAGE,))
        ]
        for block in range(self.blocks):
            inner = [
                Choice(1 + block, [*map(op_module, keys), nn.Identity()], mixing)
                for _, keys in widths
            ]
            parts.append((f"block{block}", Choice(0, inner, mixing), (parts[-1][0],)))
        features = [output_shape(stem) for stem, _ in widths]
        heads = [task.head(shape, deployment.classes) for shape in features]
        parts.append(("head", Choice(0, heads, mixing), (parts[-1][0],)))
        build = partial(self.build, task=task, deployment=deployment)
        return Supernet(Network(parts, "head"), build)
