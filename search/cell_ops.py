"""The operators of cells: what stands on their edges, before their nodes and between them.

They are those of DARTS (ICLR 2019, arXiv:1806.09055), which NAS-Bench-201 (ICLR 2020,
arXiv:2001.00326), PNAS (ECCV 2018, arXiv:1712.00559) and ENAS (ICML 2018, arXiv:1802.03268) share
in large parts: activation first, then convolution, then batch norm. All of them keep the size of an
image at stride 1 and halve it, rounding up, at stride 2. Pools do not count the padding.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasdeploy.search.kernels.depthwise import DepthwiseConv2d
from nasdeploy.search.kernels.library import serves
from nasdeploy.search.kernels.norm import BatchNorm2d
from nasdeploy.search.kernels.pool import pool
from nasdeploy.search.kernels.unit import KERNELS, Chain, Unit, sum_of, weighted_chains
from nasdeploy.search.sharing import shared


class Chained(nn.Sequential):
    """A module that is a chain of units, which the kernels compute as one in training."""

    def chain(self) -> Chain | None:
        """Its units; None if the kernels do not serve one of them."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        # in eval mode first: tracing for an export must see the stock modules alone
        chain = self.chain() if self.training and serves(x) else None
        if chain is None:
            return cast(Tensor, super().forward(x))  # type: ignore[no-untyped-call]
        return weighted_chains(x, {0: chain}, {})


class ConvBN(nn.Sequential):
    """A convolution and its batch norm; padding keeps the size."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
            BatchNorm2d(out_channels),
        )


class ReLUConvBN(Chained):
    """ReLU, a convolution, its batch norm; padding keeps the size."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(nn.ReLU(), *ConvBN(in_channels, out_channels, kernel, stride))

    def chain(self) -> Chain | None:
        _, conv, norm = self
        conv, norm = cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, norm)
        served = conv.kernel_size == conv.stride == (1, 1) and norm.training
        return (Unit(None, conv, norm),) if served else None


class ConvBNReLU(nn.Sequential):
    """A convolution, its batch norm, ReLU; padding keeps the size."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__(*ConvBN(in_channels, out_channels, kernel, stride), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        conv, norm, relu = self
        return cast(BatchNorm2d, norm).activated(conv(x), relu)


class BNReLU(nn.Sequential):
    """A batch norm and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__(BatchNorm2d(channels), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        norm, relu = self
        return cast(BatchNorm2d, norm).activated(x, relu)


class DepthwiseSeparable(Chained):
    """ReLU, one filter a channel, a 1x1 convolution, batch norm."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            nn.ReLU(),
            DepthwiseConv2d(channels, kernel, stride, dilation),
            nn.Conv2d(channels, channels, 1, bias=False),
            BatchNorm2d(channels),
        )

    def chain(self) -> Chain | None:
        _, depthwise, pointwise, norm = self
        depthwise, pointwise = cast(nn.Conv2d, depthwise), cast(nn.Conv2d, pointwise)
        served = depthwise.kernel_size[0] in KERNELS and norm.training
        return (Unit(depthwise, pointwise, cast(nn.BatchNorm2d, norm)),) if served else None


class SepConv(Chained):
    """Two depthwise separable convolutions, the first of them with the stride."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(
            DepthwiseSeparable(channels, kernel, stride), DepthwiseSeparable(channels, kernel)
        )

    def chain(self) -> Chain | None:
        first, second = (cast(DepthwiseSeparable, part).chain() for part in self)
        return None if first is None or second is None else (*first, *second)


class FactorizedConv(nn.Sequential):
    """ReLU, 1 x k, then k x 1, each with a stride in its own direction; batch norm."""

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        half = kernel // 2
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, kernel), (1, stride), (0, half), bias=False),
            nn.Conv2d(channels, channels, (kernel, 1), (stride, 1), (half, 0), bias=False),
            BatchNorm2d(channels),
        )


class AvgPool(nn.AvgPool2d):
    """The mean of a window, of as many numbers as lie inside the image."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__(kernel, stride, kernel // 2, count_include_pad=False)
        self.window = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        if self.training and _odd(self.window) and serves(x):
            return pool(x, *self.window, largest=False)
        return super().forward(x)


class MaxPool(nn.MaxPool2d):
    """The largest of a window."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__(kernel, stride, kernel // 2)
        self.window = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        if self.training and _odd(self.window) and serves(x):
            return pool(x, *self.window, largest=True)
        return cast(Tensor, super().forward(x))


def _odd(window: tuple[int, int]) -> bool:
    return window[0] % 2 == 1


class _EverySecond(nn.Conv2d):
    """A 1x1 convolution of stride 2, no bias."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.in_channels < 8:
            # With 2 to 7 channels last, torch 2.14's backward pass (oneDNN) writes past its memory.
            return functional.conv2d(x[:, :, ::2, ::2], self.weight)
        return super().forward(x)


class FactorizedReduce(nn.Module):
    """Half the size without losing every second pixel: two 1x1 convolutions, one of them shifted.

    Args:
        odd: (height, width) which of them is odd; the shifted view is then padded by one.
    """

    def __init__(self, in_channels: int, out_channels: int, odd: tuple[bool, bool]) -> None:
        super().__init__()
        self.padding = (0, int(odd[1]), 0, int(odd[0]))
        self.relu = nn.ReLU()
        first = out_channels // 2
        self.conv_1 = _EverySecond(in_channels, first)
        self.conv_2 = _EverySecond(in_channels, out_channels - first)
        self.norm = BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = shared(x, "relu", self.relu)
        shifted = functional.pad(x, self.padding) if any(self.padding) else x
        parts = [self.conv_1(x), self.conv_2(shifted[:, :, 1:, 1:])]
        return cast(Tensor, self.norm(torch.cat(parts, dim=1)))


class ResidualReduce(nn.Module):
    """NAS-Bench-201's block between stages: two 3x3 convolutions beside a pooled 1x1 one."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv_a = ReLUConvBN(in_channels, out_channels, 3, 2)
        self.conv_b = ReLUConvBN(out_channels, out_channels, 3)
        self.downsample = nn.Sequential(
            # an odd size is rounded up, as the convolutions beside it do
            nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(in_channels, out_channels, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.downsample(x) + self.conv_b(self.conv_a(x)))


class Resize(nn.Module):
    """An image at another size, bilinearly."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.size = (height, width)

    def forward(self, x: Tensor) -> Tensor:
        return functional.interpolate(x, self.size, mode="bilinear", align_corners=False)


class Add(nn.Module):
    """The sum of its inputs."""

    def forward(self, *inputs: Tensor) -> Tensor:
        if self.training and len(inputs) > 2 and torch.is_grad_enabled() and serves(inputs[0]):
            return sum_of(inputs)
        total = inputs[0]
        for tensor in inputs[1:]:
            total = total + tensor
        return total


class Concat(nn.Module):
    """Its inputs' channels one behind the other."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, dim=1)


class Zeros(nn.Module):
    """Zeros in the shape of its output: an edge that is there and carries nothing, as published.

    A depthwise convolution of zeros, which every converter keeps and every runtime has a quick
    kernel for. A product with zero is taken out of a network by LiteRT's converter, and with it
    all that is computed of it, so that no sum of operators foretells what is left.
    """

    weight: Tensor

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.register_buffer("weight", torch.zeros(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return functional.conv2d(x, self.weight, stride=self.stride, groups=len(self.weight))


class ConcatConvBN(nn.Module):
    """Concatenation, ReLU, and a 1x1 convolution that brings it back to `channels`; batch norm."""

    def __init__(self, channels: int, inputs: int) -> None:
        super().__init__()
        self.project = ReLUConvBN(channels * inputs, channels, 1)

    def forward(self, *inputs: Tensor) -> Tensor:
        return cast(Tensor, self.project(torch.cat(inputs, dim=1)))


class Branch(nn.Sequential):
    """What a layer of ENAS's macro space does: a 1x1 convolution with batch norm and ReLU, then
    a convolution with batch norm, the same in two separable steps, or a pool.

    Args:
        body: ``"conv"``, ``"sep_conv"``, ``"avg_pool"`` or ``"max_pool"``.
    """

    def __init__(self, channels: int, body: str, kernel: int) -> None:
        parts: list[nn.Module]
        if body == "conv":
            parts = [ConvBN(channels, channels, kernel)]
        elif body == "sep_conv":
            parts = [DepthwiseConv2d(channels, kernel), ConvBN(channels, channels, 1)]
        else:
            parts = [AvgPool(kernel, 1) if body == "avg_pool" else MaxPool(kernel, 1)]
        super().__init__(ConvBNReLU(channels, channels, 1), *parts)
