"""Depthwise convolution whose weight gradient is computed by a kernel of our own, on CPUs.

The stock library's weight gradient of a depthwise convolution takes half to two thirds of a
training step on a CPU. The mathematics here is the same and so is the module: `DepthwiseConv2d` is
an `nn.Conv2d` in everything but the time that its backward pass takes. The kernel is compiled once
with the machine's C++ compiler and kept in the cache; where there is none, or on CUDA, the stock
convolution is used, which one log line says.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasdeploy.search.kernels.library import address, dense, loaded, serves, threads

KERNELS = (3, 5, 7)


def weight_gradient(x: Tensor, gradient: Tensor, kernel: int, stride: int, dilation: int) -> Tensor:
    """(C, 1, K, K) gradient of a depthwise convolution's weight; the padding is half the kernel.

    Args:
        x: (N, C, H, W) float32 input, on the CPU.
        gradient: (N, C, H', W') of its output.
    """
    x, gradient = dense(x), dense(gradient)
    (n, c, h, w), (ho, wo) = x.shape, gradient.shape[2:]
    out = torch.empty(c, 1, kernel, kernel)
    padding = dilation * (kernel - 1) // 2
    shape = (ctypes.c_int64 * 9)(n, h, w, c, ho, wo, stride, padding, dilation)
    status = loaded().depthwise_weight_gradient(
        address(x), address(gradient), address(out), shape, ctypes.c_int64(kernel), threads()
    )
    if status:
        raise ValueError(f"There is no kernel of size {kernel}, only {KERNELS}")
    return out


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.dilation = stride, dilation
        padding = dilation * (weight.shape[-1] - 1) // 2
        return functional.conv2d(x, weight, None, stride, padding, dilation, groups=weight.shape[0])

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, weight = ctx.saved_tensors
        (gradient,) = upstream
        kernel, channels = weight.shape[-1], weight.shape[0]
        padding = ctx.dilation * (kernel - 1) // 2
        to_input = to_weight = None
        if ctx.needs_input_grad[0] and ctx.stride == 1:
            # the forward kernels are the library's best: a convolution with the flipped weight
            to_input = functional.conv2d(
                gradient, weight.flip(2, 3), None, 1, padding, ctx.dilation, groups=channels
            )
        elif ctx.needs_input_grad[0]:
            to_input = _stock_gradient(ctx, x, weight, gradient, of_weight=False)
        if ctx.needs_input_grad[1] and _stock_is_faster(kernel):
            to_weight = _stock_gradient(ctx, x, weight, gradient, of_weight=True)
        elif ctx.needs_input_grad[1]:
            to_weight = weight_gradient(x, gradient, kernel, ctx.stride, ctx.dilation)
        return to_input, to_weight, None, None


def _stock_gradient(
    ctx: Any, x: Tensor, weight: Tensor, gradient: Tensor, *, of_weight: bool
) -> Tensor:
    padding = ctx.dilation * (weight.shape[-1] - 1) // 2
    gradients = torch.ops.aten.convolution_backward(
        gradient, x, weight, None, [ctx.stride] * 2, [padding] * 2, [ctx.dilation] * 2, False,
        [0, 0], weight.shape[0], [not of_weight, of_weight, False],
    )  # fmt: skip
    return cast(Tensor, gradients[1 if of_weight else 0])


@functools.cache
def _stock_is_faster(kernel: int) -> bool:
    """With AVX-512 the library has code of its own for 3x3, as fast as this or faster."""
    return kernel == 3 and torch.backends.cpu.get_cpu_capability() == "AVX512"


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with one filter a channel, no bias, and padding of half the kernel."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        padding = dilation * (kernel - 1) // 2
        super().__init__(
            channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False
        )

    def forward(self, x: Tensor) -> Tensor:
        # in eval mode first: tracing for an export must see the stock convolution alone
        if self.training and self._fast(x):
            return cast(Tensor, _Depthwise.apply(x, self.weight, self.stride[0], self.dilation[0]))
        return super().forward(x)

    def _fast(self, x: Tensor) -> bool:
        return self.kernel_size[0] in KERNELS and torch.is_grad_enabled() and serves(x)
