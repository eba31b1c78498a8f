"""Exact counts: multiply-accumulates, parameters, bytes of the file, peak activation memory.

Counting runs the module on torch's meta device, where shapes flow and nothing is computed.

Definitions:
    macs: Multiplications with a weight, each with its addition, in convolutions and linear layers.
        Batch norm, activations, pooling and additions of tensors cost none: the first two fold into
        the convolution before them when a network is exported. Half of what is called FLOPs
        elsewhere.
    params: Trained numbers, batch norm's scale and shift included, running statistics not; those
        of modules that an image passes through.
    size_bytes: Weights as an exported file holds them, batch norm folded. fp32: 4 bytes a weight
        and 4 a bias. int8: 1 byte a weight, and for each output channel a scale and an int32 bias.
        The graph around them comes on top; the file itself is weighed when it is written.
    memory_bytes: The most that is alive at any time while one image passes: input and output of the
        convolution, linear layer or pool at work, and the input of the residual around it.
        Activations, batch norm and additions work in place. Weights, a runtime's own scratch
        memory and what an exporter's other words need (the addends of a split convolution) are not
        in it. 4 bytes a number in fp32, 1 in int8.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from nasdeploy.errors import UnknownName
from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.search.meta import without_values
from nasdeploy.search.ops import Classifier, MBConv
from nasdeploy.search.space import SearchSpace

Quantity = Literal["macs", "params", "size_bytes", "memory_bytes"]

REDUCE: dict[str, Literal["sum", "max"]] = {
    "macs": "sum",
    "params": "sum",
    "size_bytes": "sum",
    "memory_bytes": "max",
}
"""How the counts of a network's operators make the network's."""

_BYTES_PER_NUMBER = {"fp32": 4, "int8": 1}


@dataclass(frozen=True, slots=True)
class Counts:
    """What a module costs for one image.

    Attributes:
        weights: Numbers in convolutions and linear layers without their biases.
        channels: Output channels of those layers: as many biases once batch norm is folded.
        peak_activations: Numbers alive at the worst time.
    """

    macs: int
    params: int
    weights: int
    channels: int
    peak_activations: int

    def size_bytes(self, precision: str) -> int:
        if _bytes_per_number(precision) == 4:
            return 4 * (self.weights + self.channels)
        return self.weights + 8 * self.channels

    def memory_bytes(self, precision: str) -> int:
        return self.peak_activations * _bytes_per_number(precision)

    def value(self, what: str, precision: str) -> int:
        """One of `Quantity`; `UnknownName` for another."""
        values = {
            "macs": self.macs,
            "params": self.params,
            "size_bytes": self.size_bytes(precision),
            "memory_bytes": self.memory_bytes(precision),
        }
        if what not in values:
            raise UnknownName("quantity", what, values)
        return values[what]


def _bytes_per_number(precision: str) -> int:
    if precision not in _BYTES_PER_NUMBER:
        raise UnknownName("precision", precision, _BYTES_PER_NUMBER)
    return _BYTES_PER_NUMBER[precision]


def count(module: nn.Module, input_shapes: Sequence[Sequence[int]]) -> Counts:
    """Count a module, an operator or a whole network.

    Args:
        module: Not changed.
        input_shapes: One shape per input, without the batch.
    """
    meta = copy.deepcopy(module).to("meta").eval()
    counter = _Counter(meta)
    with torch.no_grad():
        meta(*(torch.empty(1, *shape, device="meta") for shape in input_shapes))
    return Counts(counter.macs, counter.params, counter.weights, counter.channels, counter.peak)


class _Counter:
    """Hooks on a module that add up while one image passes."""

    def __init__(self, module: nn.Module) -> None:
        self.macs = self.weights = self.channels = self.peak = 0
        self._held: list[Tensor] = []
        self._passed: dict[int, int] = {}
        for part in module.modules():
            if any(True for _ in part.parameters(recurse=False)):
                part.register_forward_hook(self._parameters)
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.register_forward_hook(self._weighted)
            elif isinstance(part, Classifier):
                part.register_forward_pre_hook(self._pooled)
            elif isinstance(part, MBConv) and part.residual:
                part.register_forward_pre_hook(self._residual_opens)
                part.register_forward_hook(self._residual_closes)

    @property
    def params(self) -> int:
        return sum(self._passed.values())

    def _parameters(self, part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        for parameter in part.parameters(recurse=False):
            self._passed[id(parameter)] = parameter.numel()

    def _weighted(self, part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        weight = cast(Tensor, part.weight)
        self.weights += weight.numel()
        self.channels += weight.shape[0]
        self.macs += output.numel() * (weight.numel() // weight.shape[0])
        self._alive(inputs[0], inputs[0].numel() + output.numel())

    def _pooled(self, part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._alive(inputs[0], inputs[0].numel() + inputs[0].shape[1])

    def _alive(self, at_work: Tensor, numbers: int) -> None:
        held = sum(tensor.numel() for tensor in self._held if tensor is not at_work)
        self.peak = max(self.peak, numbers + held)

    def _residual_opens(self, part: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self._held.append(inputs[0])

    def _residual_closes(self, part: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self._held.pop()


def counted_values(space: SearchSpace, what: str, *, precision: str = "fp32") -> dict[str, float]:
    """One `Quantity` of every operator of a space, by its key."""
    values: dict[str, float] = {}
    for op in space.all_ops():
        with without_values():
            module = op.build()
        values[str(op.key)] = float(count(module, op.input_shapes).value(what, precision))
    return values


def counted_cost(space: SearchSpace, what: str, *, precision: str = "fp32") -> CompiledCost:
    """One `Quantity` of every architecture of a space; equal to counting the built network."""
    return CompiledCost.compile(
        space.cost_terms(),
        counted_values(space, what, precision=precision),
        [len(decision.choices) for decision in space.decisions],
        reduce=REDUCE[what],
        what=what,
    )
