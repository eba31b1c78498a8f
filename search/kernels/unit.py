"""Weighted sums of chains of units, forward and backward at once.

A unit is ReLU, a depthwise convolution, a 1x1 convolution and a batch norm; a chain is one unit
behind another, as in a separable convolution of DARTS. Stored are only the outputs of the 1x1
convolutions: a batch norm in training is an affine map of them, which whoever reads them applies,
and everything else is computed again in the backward pass, image by image, in the cache.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nasdeploy.search.kernels.library import (
    address,
    addresses,
    dense,
    dense_like,
    loaded,
    threads,
)

KERNELS = (1, 3, 5, 7)
_PADDING = 16  # floats of the longest vector


@dataclass(frozen=True, eq=False, slots=True)
class Unit:
    """ReLU or nothing, a depthwise convolution or none (kernel 1), a 1x1 convolution, batch norm."""

    relu: bool
    depthwise: nn.Conv2d | None
    pointwise: nn.Conv2d
    norm: nn.BatchNorm2d

    @property
    def kernel(self) -> int:
        return 1 if self.depthwise is None else self.depthwise.kernel_size[0]

    @property
    def stride(self) -> int:
        return (self.depthwise or self.pointwise).stride[0]

    @property
    def dilation(self) -> int:
        return 1 if self.depthwise is None else self.depthwise.dilation[0]

    def parameters(self) -> tuple[Tensor | None, ...]:
        depthwise = None if self.depthwise is None else self.depthwise.weight
        return depthwise, self.pointwise.weight, self.norm.weight, self.norm.bias

    def output_size(self, x: Tensor) -> tuple[int, int]:
        height, width = x.shape[2:]
        return (height - 1) // self.stride + 1, (width - 1) // self.stride + 1


Chain = tuple[Unit, ...]


@dataclass(frozen=True, eq=False, slots=True)
class _Passed:
    """What a unit's forward pass leaves for its backward pass.

    Attributes:
        y: Behind the 1x1 convolution.
        moments: (2, channels) float32, mean and inverse standard deviation of y.
        affine: (2, channels and some zeros) float32: the batch norm is affine[0] y + affine[1].
    """

    y: Tensor
    moments: Tensor
    affine: Tensor


def sum_of(terms: Sequence[Tensor]) -> Tensor:
    """The sum of (N, C, H, W) tensors that the kernels serve, each of them read once."""
    return cast(Tensor, _Sum.apply(*terms))


def weighted_chains(
    x: Tensor, chains: Sequence[Chain], others: Sequence[Tensor], weights: Tensor | None
) -> Tensor:
    """The sum of `weights` times the outputs of all chains on `x`, then of `others`.

    Args:
        x: (N, C, H, W) that the kernels serve. It may be among `others`.
        weights: (chains + others,); None for ones.
    """
    units = [unit for chain in chains for unit in chain]
    parameters = [parameter for unit in units for parameter in unit.parameters()]
    result = _Weighted.apply(tuple(chains), x, weights, len(parameters), *parameters, *others)
    for unit in units:
        _count(unit.norm)
    return cast(Tensor, result)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *terms: Tensor) -> Tensor:
        ctx.count = len(terms)
        channels = terms[0].shape[1]
        ones = torch.ones(len(terms), channels)
        return _weighted_sum([dense(term) for term in terms], ones, torch.zeros(channels))

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, ...]:
        return (upstream,) * ctx.count


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chains: tuple[Chain, ...], x: Tensor, weights: Tensor | None, parameters: int,
        *tensors: Tensor | None,
    ) -> Tensor:  # fmt: skip
        others = [dense(cast(Tensor, tensor)) for tensor in tensors[parameters:]]
        source = dense(x)
        passed = [_chain_forward(chain, source) for chain in chains]
        ends = [units[-1] for units in passed]
        terms = [*(end.y for end in ends), *others]
        share = torch.ones(len(terms)) if weights is None else weights.detach()
        channels = terms[0].shape[1]
        slopes = torch.ones(len(terms), channels)
        bias = torch.zeros(channels)
        if ends:
            slopes[: len(ends)] = torch.stack([end.affine[0, :channels] for end in ends])
            bias = share[: len(ends)] @ torch.stack([end.affine[1, :channels] for end in ends])
        out = _weighted_sum(terms, slopes * share[:, None], bias)
        ctx.chains, ctx.share, ctx.weighted = chains, share, weights is not None
        ctx.layout = [len(units) for units in passed]
        kept = [t for units in passed for unit in units for t in (unit.y, unit.moments, unit.affine)]
        ctx.save_for_backward(source, *kept, *others, *tensors[:parameters])
        return out

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        source, *saved = ctx.saved_tensors
        passed = [
            [_Passed(*(saved.pop(0) for _ in range(3))) for _ in range(units)]
            for units in ctx.layout
        ]
        count = sum(4 * units for units in ctx.layout)
        split = len(saved) - count
        others, parameters = saved[:split], saved[split:]
        needed = ctx.needs_input_grad
        g = dense(upstream)
        ends = [units[-1] for units in passed]
        terms = [*(end.y for end in ends), *others]
        sums, products = _sums_of_products(g, terms)
        to_source = torch.empty_like(source) if needed[1] else None
        to_others, add = _to_others(g, source, others, ctx.share[len(ends) :], to_source, needed)
        to_parameters: list[Tensor | None] = []
        for number, chain in enumerate(ctx.chains):
            to_parameters += _chain_backward(
                chain, source, passed[number], parameters[len(to_parameters) :], g,
                float(ctx.share[number]), sums, products[number], to_source, add,
                needed[4 + len(to_parameters) :],
            )  # fmt: skip
            add = True
        if not add:  # neither a chain nor the source itself among the others
            to_source = None
        to_weights = None
        if ctx.weighted and needed[2]:
            to_weights = _to_weights(ends, sums, products)
        return (None, to_source, to_weights, None, *to_parameters, *to_others)


def _chain_forward(chain: Chain, source: Tensor) -> list[_Passed]:
    passed: list[_Passed] = []
    x, affine = source, None
    for unit in chain:
        passed.append(_unit_forward(unit, x, affine))
        x, affine = passed[-1].y, passed[-1].affine
    return passed


def _unit_forward(unit: Unit, x: Tensor, affine: Tensor | None) -> _Passed:
    channels = unit.pointwise.out_channels
    y = dense_like(x, channels, unit.output_size(x))
    exact = torch.empty(2, channels, dtype=torch.float64)
    a, b = (None, None) if affine is None else affine
    depthwise, pointwise, gamma, beta = unit.parameters()
    loaded().unit_forward(
        _shape(unit, x), address(x), address(a), address(b), address(depthwise),
        address(pointwise), address(y), address(exact[0]), address(exact[1]), threads(),
    )  # fmt: skip
    mean, variance = exact
    inverse = (variance + unit.norm.eps).rsqrt()
    own = torch.zeros(2, -(-channels // _PADDING) * _PADDING)
    slope = inverse if gamma is None else inverse * gamma.detach()
    own[0, :channels] = slope
    own[1, :channels] = -slope * mean if beta is None else beta.detach() - slope * mean
    _track(unit.norm, mean, variance, y.numel() // channels)
    return _Passed(y, torch.stack([mean, inverse]).float(), own)


def _chain_backward(
    chain: Chain, source: Tensor, passed: Sequence[_Passed], parameters: Sequence[Tensor | None],
    g: Tensor, share: float, sums: Tensor, products: Tensor, to_source: Tensor | None, add: bool,
    needed: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    """The gradients of a chain's parameters; that of its input is written, or added where asked."""
    found: list[Tensor | None] = []
    for index in reversed(range(len(chain))):
        own, before = passed[index], passed[index - 1] if index else None
        x = source if before is None else before.y
        to_x = to_source if before is None else torch.empty_like(x)
        backed = torch.empty(2, x.shape[1], dtype=torch.float64)
        at = slice(4 * index, 4 * index + 4)
        gradients = _unit_backward(
            chain[index], x, before, own, parameters[at], g, share, sums, products, to_x,
            add and before is None, None if before is None else backed, needed[at],
        )  # fmt: skip
        found = [*gradients, *found]
        if before is not None:
            assert to_x is not None
            g, share, sums, products = to_x, 1.0, backed[0], backed[1]
    return found


def _unit_backward(
    unit: Unit, x: Tensor, before: _Passed | None, own: _Passed,
    parameters: Sequence[Tensor | None], g: Tensor, share: float, sums: Tensor, products: Tensor,
    to_x: Tensor | None, add: bool, backed: Tensor | None, needed: Sequence[bool],
) -> list[Tensor | None]:  # fmt: skip
    depthwise, pointwise, gamma, beta = parameters
    a, b = (None, None) if before is None else before.affine
    weights = needed[0] or needed[1]
    gradients = [
        None if parameter is None or not wanted else torch.empty_like(
            parameter, memory_format=torch.contiguous_format)
        for parameter, wanted in zip(
            parameters, (weights, weights, needed[2], needed[3]), strict=True)
    ]  # fmt: skip
    to_depthwise, to_pointwise, to_gamma, to_beta = gradients
    loaded().unit_backward(
        _shape(unit, x), address(x), address(a), address(b), address(depthwise),
        address(pointwise), address(own.y), address(g), ctypes.c_double(share), address(sums),
        address(products), address(gamma), address(own.moments[0]), address(own.moments[1]),
        address(to_gamma), address(to_beta), address(to_x), ctypes.c_int64(add),
        address(to_depthwise), address(to_pointwise),
        address(None if backed is None else backed[0]),
        address(None if backed is None else backed[1]), threads(),
    )  # fmt: skip
    return [
        found if wanted else None for found, wanted in zip(gradients, needed, strict=True)
    ]


def _to_others(
    g: Tensor, source: Tensor, others: Sequence[Tensor], shares: Tensor, to_source: Tensor | None,
    needed: Sequence[bool],
) -> tuple[list[Tensor | None], bool]:  # fmt: skip
    """Gradients of the plain terms; whether that of the source was begun with one of them."""
    found: list[Tensor | None] = []
    begun = False
    wanted = needed[len(needed) - len(others) :] if others else ()
    for other, share, want in zip(others, shares, wanted, strict=True):
        if not want:
            found.append(None)
        elif other.data_ptr() == source.data_ptr() and to_source is not None and not begun:
            torch.mul(g, share, out=to_source)
            found.append(None)
            begun = True
        else:
            found.append(g * share)
    return found, begun


def _to_weights(ends: Sequence[_Passed], sums: Tensor, products: Tensor) -> Tensor:
    """(terms,): the gradient of each term's weight, the sum of g times the term."""
    exact = products.sum(1)
    for number, end in enumerate(ends):
        slope, bias = end.affine[:, : sums.shape[0]].double()
        exact[number] = slope @ products[number] + bias @ sums
    return exact.float()


def _weighted_sum(terms: list[Tensor], coefficients: Tensor, bias: Tensor) -> Tensor:
    images, channels, height, width = terms[0].shape
    out = torch.empty_like(terms[0], memory_format=torch.channels_last)
    loaded().weighted_sum(
        addresses(terms), ctypes.c_int64(len(terms)), address(coefficients), address(bias),
        address(out), ctypes.c_int64(images), ctypes.c_int64(height * width),
        ctypes.c_int64(channels), threads(),
    )  # fmt: skip
    return out


def _sums_of_products(g: Tensor, terms: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(C,) sums of g over all pixels, and (terms, C) of g times each term; float64."""
    images, channels, height, width = g.shape
    sums = torch.empty(channels, dtype=torch.float64)
    products = torch.empty(len(terms), channels, dtype=torch.float64)
    loaded().weighted_sum_products(
        address(g), addresses(terms), ctypes.c_int64(len(terms)), address(sums), address(products),
        ctypes.c_int64(images), ctypes.c_int64(height * width), ctypes.c_int64(channels), threads(),
    )  # fmt: skip
    return sums, products


def _shape(unit: Unit, x: Tensor) -> ctypes.Array[ctypes.c_int64]:
    images, channels, height, width = x.shape
    return (ctypes.c_int64 * 11)(
        images, height, width, channels, unit.pointwise.out_channels, *unit.output_size(x),
        unit.kernel, unit.stride, unit.dilation, unit.relu,
    )  # fmt: skip


def _track(norm: nn.BatchNorm2d, mean: Tensor, variance: Tensor, pixels: int) -> None:
    """Move a batch norm's running statistics, as torch does."""
    if norm.running_mean is None or norm.running_var is None:
        return
    assert norm.num_batches_tracked is not None
    momentum = norm.momentum
    if momentum is None:
        momentum = 1.0 / (int(norm.num_batches_tracked) + 1)
    with torch.no_grad():
        norm.running_mean.lerp_(mean.float(), momentum)
        norm.running_var.lerp_((variance * (pixels / max(pixels - 1, 1))).float(), momentum)


def _count(norm: nn.BatchNorm2d) -> None:
    if norm.num_batches_tracked is not None and norm.track_running_stats:
        norm.num_batches_tracked.add_(1)
