"""Batch norm with the activation behind it as one, on CPUs in training.

What the activation makes of it is not stored: its gradient is known from the input. The sums are
taken in double precision, since torch's in channels_last leave 2e-3 of an architecture's gradient
uncertain (float64 as the reference).
"""

from __future__ import annotations

import ctypes
import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nasdeploy.search.kernels.library import dense, loaded, serves

_PADDING = 16  # floats of the longest vector
_POINTERS = "x gamma beta running_mean running_variance norm y g gx ggamma gbeta"


class _Norm(ctypes.Structure):
    """`Norm` of norm.cpp, which says what is what."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("n", "pixels", "c")),
        *((name, ctypes.c_void_p) for name in _POINTERS.split()),
        *((name, ctypes.c_double) for name in ("epsilon", "momentum")),
        ("bounded", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("floor", "ceiling")),
        ("threads", ctypes.c_int64),
    ]


class BatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` in everything but the time that it takes in training."""

    def forward(self, input: Tensor) -> Tensor:
        return norm_of(input, self, None) if self._fast(input) else super().forward(input)

    def activated(self, x: Tensor, activation: nn.Module | None) -> Tensor:
        """Batch norm, then ReLU, ReLU6 or nothing."""
        if self._fast(x):
            return norm_of(x, self, _range(activation))
        y = self(x)  # called, since hooks count what passes
        return cast(Tensor, y if activation is None else activation(y))

    def _fast(self, x: Tensor) -> bool:
        # in eval mode first: tracing for an export must see the stock modules alone
        return self.training and serves(x) and x.numel() > x.shape[1]


def norm_of(x: Tensor, norm: nn.BatchNorm2d, bounds: tuple[float, float] | None) -> Tensor:
    """A batch norm of `x` by its own statistics, cut off at `bounds`; the running ones move."""
    y = cast(Tensor, _Function.apply(x, norm, bounds, norm.weight, norm.bias))
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return y


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, norm: nn.BatchNorm2d, bounds: tuple[float, float] | None,
        gamma: Tensor | None, beta: Tensor | None,
    ) -> Tensor:  # fmt: skip
        x = dense(x)
        channels = x.shape[1]
        y = torch.empty_like(x)
        moments = torch.empty(4, -(-channels // _PADDING) * _PADDING)
        momentum = norm.momentum
        if momentum is None:
            assert norm.num_batches_tracked is not None
            momentum = 1.0 / (int(norm.num_batches_tracked) + 1)
        given = _given(x, bounds, gamma, beta, moments)
        given.y, given.epsilon, given.momentum = y.data_ptr(), norm.eps, momentum
        if norm.running_mean is not None and norm.running_var is not None:
            given.running_mean = norm.running_mean.data_ptr()
            given.running_variance = norm.running_var.data_ptr()
        loaded().norm_forward(ctypes.byref(given))
        ctx.bounds = bounds
        ctx.save_for_backward(x, moments, gamma, beta)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, moments, gamma, beta = ctx.saved_tensors
        needed = ctx.needs_input_grad
        g = dense(upstream)
        to_x = torch.empty_like(x) if needed[0] else None
        to_gamma = torch.empty(x.shape[1]) if needed[3] else None
        to_beta = torch.empty(x.shape[1]) if needed[4] else None
        given = _given(x, ctx.bounds, gamma, beta, moments)
        given.g = g.data_ptr()
        for name, tensor in (("gx", to_x), ("ggamma", to_gamma), ("gbeta", to_beta)):
            setattr(given, name, None if tensor is None else tensor.data_ptr())
        loaded().norm_backward(ctypes.byref(given))
        return to_x, None, None, to_gamma, to_beta


def _given(
    x: Tensor, bounds: tuple[float, float] | None, gamma: Tensor | None, beta: Tensor | None,
    moments: Tensor,
) -> _Norm:  # fmt: skip
    images, channels, height, width = x.shape
    floor, ceiling = bounds or (-math.inf, math.inf)
    return _Norm(
        n=images, pixels=height * width, c=channels, x=x.data_ptr(),
        gamma=None if gamma is None else gamma.data_ptr(),
        beta=None if beta is None else beta.data_ptr(), norm=moments.data_ptr(),
        bounded=bounds is not None, floor=floor, ceiling=ceiling, threads=torch.get_num_threads(),
    )  # fmt: skip


def _range(activation: nn.Module | None) -> tuple[float, float] | None:
    if activation is None or isinstance(activation, nn.Identity):
        return None
    if isinstance(activation, nn.ReLU6):
        return 0.0, 6.0
    if isinstance(activation, nn.ReLU):
        return 0.0, math.inf
    raise TypeError(f"{activation} is not cut off at two numbers")
