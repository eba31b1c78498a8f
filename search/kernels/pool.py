"""Average and maximum pools whose backward pass looks for the largest again, on CPUs."""

from __future__ import annotations

import ctypes
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nasdeploy.search.kernels.library import address, dense, dense_like, loaded, threads


def pool(x: Tensor, kernel: int, stride: int, *, largest: bool) -> Tensor:
    """The mean or the largest of each window inside the image, padded by half the odd kernel.

    Args:
        x: (N, C, H, W) that the kernels serve.
    """
    return cast(Tensor, _Pool.apply(x, kernel, stride, largest))


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, kernel: int, stride: int, largest: bool) -> Tensor:
        x = dense(x)
        images, channels, height, width = x.shape
        size = (height - 1) // stride + 1, (width - 1) // stride + 1
        y = dense_like(x, channels, size)
        ctx.shape = (ctypes.c_int64 * 8)(images, height, width, channels, *size, kernel, stride)
        ctx.largest, ctx.input_shape = ctypes.c_int64(largest), x.shape
        loaded().pool_forward(ctx.shape, ctx.largest, address(x), address(y), threads())
        ctx.save_for_backward(*((x, y) if largest else ()))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:
        x, y = ctx.saved_tensors or (None, None)
        to_x = torch.empty(ctx.input_shape, memory_format=torch.channels_last)
        g = dense(upstream)
        loaded().pool_backward(
            ctx.shape, ctx.largest, address(x), address(y), address(g), address(to_x), threads()
        )
        return to_x, None, None, None
