"""Networks that were wired: the stand-alone network of a plan, and the supernet of a space."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.cell_ops import Add
from nasdeploy.search.kernels.library import dense, serves
from nasdeploy.search.kernels.passing import in_turns
from nasdeploy.search.ops import op_module
from nasdeploy.search.sharing import shared, sharing
from nasdeploy.search.supernet import Choice, Mixed, Mixing
from nasdeploy.search.wiring import (
    IMAGE,
    Edge,
    Plan,
    Shape,
    Taker,
    Wire,
    output_shape,
    shape_behind,
)


class Network(nn.Module):
    """Modules that take each other's outputs.

    Only what the output depends on is computed, and an output is let go when its last reader had
    it. A module may say which of its inputs it looks at (``wanted``); on one path of a supernet,
    the edges that were not taken cost nothing.

    Args:
        parts: (name, module, names of its inputs), in an order in which they can be computed.
        output: The part whose output the network returns.
        spare: Modules that are held and never computed.
    """

    def __init__(
        self,
        parts: Iterable[tuple[str, nn.Module, tuple[str, ...]]],
        output: str,
        spare: Iterable[tuple[str, nn.Module]] = (),
    ) -> None:
        super().__init__()
        self._inputs: dict[str, tuple[str, ...]] = {}
        for name, module, inputs in parts:
            self.add_module(name, module)
            self._inputs[name] = inputs
        for name, module in spare:
            self.add_module(name, module)
        self._output = output

    def sources(self, name: str) -> list[nn.Module | None]:
        """The parts whose outputs a part takes; None for the image."""
        return [None if at == IMAGE else getattr(self, at) for at in self._inputs[name]]

    def forward(self, x: Tensor) -> Tensor:
        with sharing():
            return self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        wanted = self._wanted()
        readers = Counter(name for names in wanted.values() for name in names)
        values: dict[str, Tensor] = {IMAGE: x}
        for name, inputs in self._inputs.items():
            if name not in wanted:
                continue
            values[name] = getattr(self, name)(*(values.get(source) for source in inputs))
            for source in wanted[name]:
                readers[source] -= 1
                if not readers[source]:
                    values.pop(source)
        return values[self._output]

    def _wanted(self) -> dict[str, set[str]]:
        """The inputs that each part needs, for the parts that the output depends on."""
        wanted: dict[str, set[str]] = {}
        waiting = [self._output]
        while waiting:
            name = waiting.pop()
            if name == IMAGE or name in wanted:
                continue
            inputs, part = self._inputs[name], getattr(self, name)
            looks = part.wanted() if isinstance(part, Join | Rest) else None
            wanted[name] = set(inputs if looks is None else (inputs[index] for index in looks))
            waiting += wanted[name]
        return wanted


class Gather(nn.Module):
    """The sum of some of its inputs."""

    def __init__(self, indices: tuple[int, ...]) -> None:
        super().__init__()
        self.indices = indices

    def forward(self, *inputs: Tensor) -> Tensor:
        total = inputs[self.indices[0]]
        for index in self.indices[1:]:
            total = total + inputs[index]
        return total


class Join(Choice):
    """The decision which edges end in a node.

    Its inputs are what comes along the edges, its candidates sum some of them: a strategy that
    weighs edges (DARTS, PC-DARTS) finds all of them in the inputs of its mixing.
    """

    def wanted(self) -> Sequence[int] | None:
        """Which inputs count, if the mixing takes one path; None for all of them."""
        only = self.only(self.decision)
        if only is None:
            return None
        return cast(Gather, self.candidates[only]).indices


class PartialChoice(Choice):
    """A decision about the first of every `partial` channels; the others pass by.

    PC-DARTS (Xu et al., ICLR 2020, arXiv:1907.05737), section 3.2 and equation 2: the candidates
    have 1/K of the channels; at stride 2 a max pool halves what passes by. The channels are then
    shuffled, so that the next operator sees others. ``none`` is zero on its part only. The weight
    that a mixing gives the edge (equation 3) is one of all channels: a mixing with edge weights has
    them in those of the candidates, and says for what passes by.
    """

    def __init__(
        self, decision: int, candidates: Iterable[nn.Module], mixing: Mixing, partial: int
    ) -> None:
        super().__init__(decision, candidates, mixing)
        self.partial = partial

    def forward(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        part = x.shape[1] // self.partial
        # once for all edges that begin here, so that they share pools of it too
        taken = shared(x, ("first channels", part), lambda x: dense(x[:, :part]))
        chosen = super().forward(taken)
        others = x
        if chosen.shape[2:] != x.shape[2:]:
            others = shared(x, ("halved but for", part), lambda x: _halved(x[:, part:]))
        weigh = getattr(self.mixing, "edge_weight", None)
        weight = None if weigh is None else weigh(self.decision)
        if self.training and serves(chosen):
            return in_turns(chosen, others, weight, self.partial)
        rest = others[:, -(x.shape[1] - part) :]
        if weight is not None:
            rest = weight * rest
        return _shuffled(torch.cat([chosen, rest], dim=1), self.partial)


def _halved(x: Tensor) -> Tensor:
    return functional.max_pool2d(x, 2, 2, ceil_mode=True)


def _shuffled(x: Tensor, groups: int) -> Tensor:
    """The first channel of each group, then the second of each, and so on; in channels_last."""
    n, channels, height, width = x.shape
    last = x.permute(0, 2, 3, 1).reshape(n, height, width, groups, channels // groups)
    return last.transpose(3, 4).reshape(n, height, width, channels).permute(0, 3, 1, 2)


class OnePath(Choice):
    """A decision whose candidates have different shapes, so that only one is taken at a time."""

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.only(self.decision) is None:
            raise UsageError(
                "The candidates of a decision about shapes cannot be mixed: the space needs a "
                "strategy that takes one path at a time (--strategy evolution)."
            )
        return super().forward(*inputs)


class Rest(Mixed):
    """Its first input, and the sum of those others that no decision takes elsewhere.

    Which they are is known on a path only; where the mixing takes several, all of them count.
    """

    def __init__(self, takers: Sequence[tuple[Taker, ...]], mixing: Mixing) -> None:
        super().__init__(mixing)
        self.takers = tuple(takers)

    def wanted(self) -> Sequence[int]:
        return [0, *(n for n, by in enumerate(self.takers, start=1) if not self._taken(by))]

    def forward(self, *inputs: Tensor) -> Tensor:
        return cast(Tensor, Add()(*(inputs[index] for index in self.wanted())))

    def _taken(self, by: tuple[Taker, ...]) -> bool:
        return any(self.only(decision) == choice for decision, choice in by)


class _Total(nn.Module):
    """The sum of its inputs, of which those that carry zeros do not matter."""

    forward = Add.forward


class SupernetWiring:
    """Wires a supernet; `search.wiring.Wiring` says what the methods mean.

    Args:
        partial: Operators that keep the channels take one in so many.
    """

    def __init__(self, mixing: Mixing, partial: int = 1) -> None:
        self.mixing = mixing
        self.partial = partial
        self._parts: list[tuple[str, nn.Module, tuple[str, ...]]] = []

    def op(self, name: str, key: OpKey, *inputs: Wire) -> Wire:
        return self._add(name, op_module(key), inputs, output_shape(key))

    def choose(self, name: str, decision: int, keys: Sequence[OpKey | None], *inputs: Wire) -> Wire:
        shape = shape_behind(keys, inputs[0].shape)
        choice: Choice
        if self.partial > 1 and len(inputs) == 1 and shape[0] == inputs[0].shape[0]:
            parts = [None if key is None else _part_of(key, self.partial) for key in keys]
            choice = PartialChoice(decision, _candidates(parts), self.mixing, self.partial)
        else:
            choice = Choice(decision, _candidates(keys), self.mixing)
        return self._add(name, choice, inputs, shape)

    def join(
        self, name: str, decision: int, options: Sequence[tuple[int, ...]], edges: Sequence[Edge]
    ) -> Wire:
        wires = [self._along(edge) for edge in edges]
        part = Join(decision, [Gather(option) for option in options], self.mixing)
        return self._add(name, part, wires, edges[0].shape)

    def total(self, name: str, edges: Sequence[Edge]) -> Wire:
        return self._add(name, _Total(), [self._along(edge) for edge in edges], edges[0].shape)

    def or_zeros(self, name: str, wire: Wire, source: Wire) -> Wire:
        return wire

    def rest(
        self, name: str, base: Wire, edges: Sequence[Edge], takers: Sequence[tuple[Taker, ...]]
    ) -> Wire:
        wires = [base, *(self._along(edge) for edge in edges)]
        return self._add(name, Rest(takers, self.mixing), wires, base.shape)

    def finish(self, output: Wire, head: nn.Module) -> Network:
        self._add("head", head, [output], output.shape)
        return Network(self._parts, "head")

    def _along(self, edge: Edge) -> Wire:
        if edge.decision is not None:
            return self.choose(edge.name, edge.decision, edge.keys, edge.source)
        key = edge.keys[0]
        return edge.source if key is None else self.op(edge.name, key, edge.source)

    def _add(self, name: str, module: nn.Module, inputs: Sequence[Wire], shape: Shape) -> Wire:
        self._parts.append((name, module, tuple(str(wire.name) for wire in inputs)))
        return Wire(name, shape)


def _part_of(key: OpKey, partial: int) -> OpKey:
    """The same operator on one channel in `partial`."""
    channels, *size = key.input_shapes[0]
    if channels % partial:
        raise UsageError(
            f"An edge of {channels} channels has no {partial} equal parts: choose channels of the "
            f"space that partial_channels ({partial}) divides."
        )
    attributes = dict(key.attributes)
    if "out" in attributes:
        attributes["out"] = int(attributes["out"]) // partial
    return OpKey.of(key.kind, [(channels // partial, *size)], **attributes)


def _candidates(keys: Sequence[OpKey | None]) -> list[nn.Module]:
    return [nn.Identity() if key is None else op_module(key) for key in keys]


def network_of(plan: Plan, head: Callable[[Shape], nn.Module]) -> Network:
    """The stand-alone network of a plan."""
    parts = [(step.name, op_module(step.key), step.inputs) for step in plan.steps]
    parts.append(("head", head(plan.shape), (plan.output,)))
    spare = [(name, op_module(key)) for name, key in plan.spare]
    return Network(parts, "head", [(n, m) for n, m in spare if any(True for _ in m.parameters())])
