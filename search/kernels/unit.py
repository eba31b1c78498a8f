"""Weighted sums of chains of units, forward and backward at once.

A unit is ReLU, a depthwise convolution or none, a 1x1 convolution and a batch norm; a chain is one
unit behind another, as in a separable convolution of DARTS. Stored are only the outputs of the 1x1
convolutions: a batch norm in training is an affine map of them, which whoever reads them applies,
and everything else is computed again in the backward pass, image by image, in the cache.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nasdeploy.search.kernels.library import address, dense, dense_like, loaded
from nasdeploy.search.kernels.structures import BackwardPass, ForwardPass, Shape, Term

KERNELS = (3, 5, 7)
_PADDING = 16  # floats of the longest vector


@dataclass(frozen=True, eq=False, slots=True)
class Unit:
    """ReLU, a depthwise convolution or none, a 1x1 convolution, batch norm."""

    depthwise: nn.Conv2d | None
    pointwise: nn.Conv2d
    norm: nn.BatchNorm2d

    def parameters(self) -> tuple[Tensor | None, ...]:
        deep = None if self.depthwise is None else self.depthwise.weight
        return deep, self.pointwise.weight, self.norm.weight, self.norm.bias

    def window(self) -> tuple[int, int, int]:
        """Kernel, stride, dilation."""
        if self.depthwise is None:
            return 1, 1, 1
        conv = self.depthwise
        return conv.kernel_size[0], conv.stride[0], conv.dilation[0]

    def output_size(self, x: Tensor) -> tuple[int, int]:
        height, width = x.shape[2:]
        _, stride, _ = self.window()
        return (height - 1) // stride + 1, (width - 1) // stride + 1


Chain = tuple[Unit, ...]


class _Passed(NamedTuple):
    """What a unit's forward pass leaves for its backward pass.

    Attributes:
        y: Behind the 1x1 convolution.
        norm: (4, channels and some zeros) float32: mean of y, inverse standard deviation, and the
            affine map a y + b that the batch norm is.
    """

    y: Tensor
    norm: Tensor

    def affine(self) -> tuple[int, int]:
        """Where a and b lie."""
        start, row = self.norm.data_ptr(), 4 * self.norm.shape[1]
        return start + 2 * row, start + 3 * row


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """The sum of (N, C, H, W) tensors that the kernels serve, each of them read once."""
    return cast(Tensor, _Sum.apply(*terms))


def weighted_chains(
    x: Tensor,
    chains: Mapping[int, Chain],
    others: Mapping[int, Tensor],
    weights: Tensor | None = None,
) -> Tensor:
    """The sum of all chains on `x` and of `others`, each times the weight at its index.

    Args:
        x: (N, C, H, W) that the kernels serve. It may be among `others`.
        weights: (terms,); None for ones.
    """
    units = [unit for chain in chains.values() for unit in chain]
    parameters = [parameter for unit in units for parameter in unit.parameters()]
    plan = _Plan(tuple(chains.values()), (*chains, *others), len(parameters))
    result = _Weighted.apply(plan, x, weights, *parameters, *others.values())
    counts = [unit.norm.num_batches_tracked for unit in units]
    kept = [count for count in counts if count is not None]
    if kept:
        torch._foreach_add_(kept, 1)
    return cast(Tensor, result)


class _Plan(NamedTuple):
    """
    Attributes:
        order: The index of each term's weight: of the chains, then of the others.
        parameters: How many tensors are parameters of chains.
    """

    chains: tuple[Chain, ...]
    order: tuple[int, ...]
    parameters: int


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *terms: Tensor) -> Tensor:
        ctx.count = len(terms)
        dense_terms = [dense(term) for term in terms]  # kept while they are read
        return _weighted_sum([(term, (None, None), 1.0) for term in dense_terms])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        count: int = ctx.count
        return (upstream,) * count


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, x: Tensor, weights: Tensor | None, *tensors: Tensor | None
    ) -> Tensor:
        source = dense(x)
        others = [dense(cast(Tensor, tensor)) for tensor in tensors[plan.parameters :]]
        passed = _chains_forward(plan.chains, source)
        every = [1.0] * len(plan.order) if weights is None else weights.tolist()
        shares = [every[index] for index in plan.order]
        ends = [units[-1] for units in passed]
        out = _weighted_sum(_terms(ends, others, shares))
        ctx.plan, ctx.shares, ctx.size = plan, shares, len(every)
        kept = [tensor for units in passed for unit in units for tensor in unit]
        ctx.save_for_backward(source, *kept, *others, *tensors[: plan.parameters])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        source, *saved = ctx.saved_tensors
        kept = iter(saved)
        passed = [[_Passed(next(kept), next(kept)) for _ in chain] for chain in plan.chains]
        rest = list(kept)
        others = rest[: len(rest) - plan.parameters]
        parameters = rest[len(others) :]
        _, needs_source, needs_weights, *needed = ctx.needs_input_grad
        g = dense(upstream)
        ends = [units[-1] for units in passed]
        moments, of_terms = _products(g, _terms(ends, others, ctx.shares))
        to_source = torch.empty_like(source) if needs_source else None
        to_others, add = _to_others(
            g, source, others, ctx.shares[len(ends) :], to_source, needed[plan.parameters :]
        )
        downs = [
            _Down(g, share, moments[0], products)
            for share, products in zip(ctx.shares, moments[1 : 1 + len(ends)], strict=False)
        ]
        to_parameters = _chains_backward(
            plan.chains, source, passed, parameters, needed, downs, to_source, add
        )
        if not add and not plan.chains:  # nor is the source itself among the others
            to_source = None
        to_weights = None
        if needs_weights:
            to_weights = torch.zeros(ctx.size)
            to_weights[list(plan.order)] = of_terms
        return (None, to_source, to_weights, *to_parameters, *to_others)


class _Down(NamedTuple):
    """A gradient on its way down.

    Attributes:
        g: Of `share` times the output of a unit.
        sums, products: (C,) float64: of g, and of g times the unit's y, over all pixels.
    """

    g: Tensor
    share: float
    sums: Tensor
    products: Tensor


def _chains_forward(chains: Sequence[Chain], source: Tensor) -> list[list[_Passed]]:
    """All units of all chains, those that read the source first: these are computed as one."""
    passed: list[list[_Passed]] = [[] for _ in chains]
    passes = []
    for depth in range(max(map(len, chains), default=0)):
        for chain, own in zip(chains, passed, strict=True):
            if depth < len(chain):
                before = own[-1] if own else None
                x = source if before is None else before.y
                channels = chain[depth].pointwise.out_channels
                y = dense_like(x, channels, chain[depth].output_size(x))
                own.append(_Passed(y, torch.empty(4, -(-channels // _PADDING) * _PADDING)))
                passes.append(_forward_pass(chain[depth], x, before, own[-1]))
    count = len(passes)
    loaded().units_forward((ForwardPass * count)(*passes), ctypes.c_int64(count))
    return passed


def _forward_pass(unit: Unit, x: Tensor, before: _Passed | None, own: _Passed) -> ForwardPass:
    a, b = (None, None) if before is None else before.affine()
    depthwise, pointwise, gamma, beta = map(_at, unit.parameters())
    momentum = unit.norm.momentum
    if momentum is None:
        assert unit.norm.num_batches_tracked is not None
        momentum = 1.0 / (int(unit.norm.num_batches_tracked) + 1)
    return ForwardPass(
        u=_shape(unit, x), x=_at(x), a=a, b=b, depthwise=depthwise, pointwise=pointwise,
        y=_at(own.y), gamma=gamma, beta=beta, running_mean=_at(unit.norm.running_mean),
        running_variance=_at(unit.norm.running_var), norm=_at(own.norm), epsilon=unit.norm.eps,
        momentum=momentum, threads=torch.get_num_threads(),
    )  # fmt: skip


def _chains_backward(
    chains: Sequence[Chain], source: Tensor, passed: Sequence[Sequence[_Passed]],
    parameters: Sequence[Tensor | None], needed: Sequence[bool], downs: Sequence[_Down],
    to_source: Tensor | None, add: bool,
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of all chains' parameters; that of the source is written, or added where asked.

    Those of the units that read the source come last: they are computed as one.
    """
    firsts = list(itertools.accumulate((4 * len(chain) for chain in chains), initial=0))
    found: list[Tensor | None] = [None] * firsts[-1]
    downs, passes = list(downs), []
    kept: list[Tensor] = []  # what the passes point at
    for depth in reversed(range(max(map(len, chains), default=0))):
        for number, chain in enumerate(chains):
            if depth >= len(chain):
                continue
            own = slice(firsts[number] + 4 * depth, firsts[number] + 4 * depth + 4)
            found[own] = _rooms(parameters[own], needed[own])
            kept += [room for room in found[own] if room is not None]
            before = passed[number][depth - 1] if depth else None
            down = downs[number]
            if before is None:
                to = _To(to_source, add, None)
                add = True
            else:
                to = _To(torch.empty_like(before.y), False, _moments(before.y))
                downs[number] = _Down(cast(Tensor, to.x), 1.0, *cast(Tensor, to.moments).unbind())
            kept += [down.g, down.sums, down.products]
            passes.append(_backward_pass(
                chain[depth], source, before, passed[number][depth], parameters[own], found[own],
                down, to,
            ))  # fmt: skip
    count = len(passes)
    loaded().units_backward((BackwardPass * count)(*passes), ctypes.c_int64(count))
    return [room if wanted else None for room, wanted in zip(found, needed, strict=False)]


class _To(NamedTuple):
    """Where a unit's backward pass hands the gradient of its input.

    Attributes:
        add: To what `x` holds.
        moments: (2, C) float64: room for its sum over all pixels, and of it times the input.
    """

    x: Tensor | None
    add: bool
    moments: Tensor | None


def _moments(x: Tensor) -> Tensor:
    return torch.empty(2, x.shape[1], dtype=torch.float64)


def _rooms(parameters: Sequence[Tensor | None], needed: Sequence[bool]) -> list[Tensor | None]:
    """For the gradients of a unit's parameters; those of its convolutions are found together."""
    weights = needed[0] or needed[1]
    return [
        None if parameter is None or not wanted else torch.empty(parameter.shape)
        for parameter, wanted in zip(parameters, (weights, weights, *needed[2:]), strict=True)
    ]


def _backward_pass(
    unit: Unit, source: Tensor, before: _Passed | None, own: _Passed,
    parameters: Sequence[Tensor | None], rooms: Sequence[Tensor | None], down: _Down, to: _To,
) -> BackwardPass:  # fmt: skip
    x, (a, b) = (source, (None, None)) if before is None else (before.y, before.affine())
    depthwise, pointwise, gamma, _ = map(_at, parameters)
    gdepthwise, gpointwise, ggamma, gbeta = map(_at, rooms)
    gsums, gproducts = (None, None) if to.moments is None else map(_at, to.moments.unbind())
    return BackwardPass(
        u=_shape(unit, x), x=_at(x), a=a, b=b, depthwise=depthwise, pointwise=pointwise,
        y=_at(own.y), g=_at(down.g), sums=_at(down.sums), products=_at(down.products), gamma=gamma,
        norm=_at(own.norm), ggamma=ggamma, gbeta=gbeta, gx=_at(to.x), gdepthwise=gdepthwise,
        gpointwise=gpointwise, gsums=gsums, gproducts=gproducts, scale=down.share, add=to.add,
        threads=torch.get_num_threads(),
    )  # fmt: skip


def _to_others(
    g: Tensor, source: Tensor, others: Sequence[Tensor], shares: Sequence[float],
    to_source: Tensor | None, needed: Sequence[bool],
) -> tuple[list[Tensor | None], bool]:  # fmt: skip
    """Gradients of the plain terms; whether that of the source was begun with one of them."""
    found: list[Tensor | None] = []
    begun = False
    for other, share, wanted in zip(others, shares, needed, strict=True):
        if wanted and not begun and to_source is not None and _at(other) == _at(source):
            torch.mul(g, share, out=to_source)
            found.append(None)
            begun = True
        else:
            found.append(g * share if wanted else None)
    return found, begun


_Values = tuple[Tensor, tuple[int | None, int | None], float]


def _terms(
    ends: Sequence[_Passed], others: Sequence[Tensor], shares: Sequence[float]
) -> list[_Values]:
    """(values, affine map, weight) of each term of a sum."""
    values = [
        *((end.y, end.affine()) for end in ends),
        *((other, (None, None)) for other in others),
    ]
    return [(value, affine, share) for (value, affine), share in zip(values, shares, strict=True)]


def _weighted_sum(terms: Sequence[_Values]) -> Tensor:
    like = terms[0][0]
    out = torch.empty_like(like, memory_format=torch.channels_last)
    loaded().weighted_sum(_array(terms), ctypes.c_int64(len(terms)), address(out), *_extent(like))
    return out


def _products(g: Tensor, terms: Sequence[_Values]) -> tuple[Tensor, Tensor]:
    """(1 + terms, C) float64 sums over all pixels, of g and of g times each term's values; and
    (terms,) of g times each term, which are the gradients of their weights."""
    moments = torch.empty(1 + len(terms), g.shape[1], dtype=torch.float64)
    of_terms = torch.empty(len(terms))
    loaded().weighted_sum_products(
        address(g), _array(terms), ctypes.c_int64(len(terms)), address(moments),
        ctypes.c_void_p(moments.data_ptr() + 8 * g.shape[1]), address(of_terms), *_extent(g),
    )  # fmt: skip
    return moments, of_terms


def _array(terms: Sequence[_Values]) -> ctypes.Array[Term]:
    return (Term * len(terms))(*(Term(_at(value), a, b, w) for value, (a, b), w in terms))


def _extent(x: Tensor) -> tuple[ctypes.c_int64, ...]:
    images, channels, height, width = x.shape
    return tuple(map(ctypes.c_int64, (images, height * width, channels, torch.get_num_threads())))


def _at(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _shape(unit: Unit, x: Tensor) -> Shape:
    images, channels, height, width = x.shape
    return Shape(
        images, height, width, channels, unit.pointwise.out_channels, *unit.output_size(x),
        *unit.window(),
    )  # fmt: skip
