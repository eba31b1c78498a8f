"""The modules that networks are made of, and how to build each from its key alone.

An operator is what is measured: a block at its shapes. `op_module` makes it from the text that a
table knows it by, so that another process can export it without seeing the space.

The blocks are those of ProxylessNAS (ICLR 2019, arXiv:1812.00332) and, before it, MobileNetV2
(CVPR 2018, arXiv:1801.04381, figure 4d), with batch norm's epsilon of 1e-3 as in the published
code; those of cells are in `cell_ops`. They are ordinary modules and run in channels_last where
their input does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from torch import Tensor, nn

from nasdeploy.errors import UnknownName
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search import cell_ops as cells
from nasdeploy.search.kernels.depthwise import DepthwiseConv2d
from nasdeploy.search.kernels.norm import BatchNorm2d

_BATCH_NORM_EPSILON = 1e-3


class ConvBNReLU6(nn.Module):
    """A convolution, its batch norm, and ReLU6 unless `activate` is off; padding keeps the size."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
        *,
        activate: bool = True,
    ) -> None:
        super().__init__()
        self.conv: nn.Conv2d
        if groups == in_channels == out_channels and groups > 1:
            self.conv = DepthwiseConv2d(in_channels, kernel, stride)
        else:
            self.conv = nn.Conv2d(
                in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False
            )
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm = BatchNorm2d(out_channels, eps=_BATCH_NORM_EPSILON)
        self.act = nn.ReLU6() if activate else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.norm.activated(self.conv(x), self.act)


class MBConv(nn.Module):
    """An inverted residual: widen by `expand`, filter each channel, project back.

    With `expand` 1 there is nothing to widen and that convolution is left out. The input is added
    exactly where the shape stays: stride 1 and as many channels out as in.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: int, expand: int, stride: int
    ) -> None:
        super().__init__()
        inner = in_channels * expand
        self.residual = stride == 1 and in_channels == out_channels
        self.expand = ConvBNReLU6(in_channels, inner, 1) if expand != 1 else None
        self.depthwise = ConvBNReLU6(inner, inner, kernel, stride, groups=inner)
        self.project = ConvBNReLU6(inner, out_channels, 1, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.residual else cast(Tensor, y)


class Classifier(nn.Module):
    """The mean over all positions, then one linear layer: (N, C, H, W) to (N, classes)."""

    def __init__(self, in_channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(in_channels, classes)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.linear(x.mean((2, 3), keepdim=True).flatten(1)))


def _conv_bn_relu6(key: OpKey) -> nn.Module:
    a = _integers(key)
    return ConvBNReLU6(key.input_shapes[0][0], a["out"], a["kernel"], a["stride"])


def _mbconv(key: OpKey) -> nn.Module:
    a = _integers(key)
    return MBConv(
        key.input_shapes[0][0], a["out"], kernel=a["kernel"], expand=a["expand"], stride=a["stride"]
    )


def _classifier(key: OpKey) -> nn.Module:
    return Classifier(key.input_shapes[0][0], _integers(key)["classes"])


def _channels(key: OpKey) -> int:
    return key.input_shapes[0][0]


def _factorized_reduce(key: OpKey) -> nn.Module:
    channels, height, width = key.input_shapes[0]
    odd = height % 2 == 1, width % 2 == 1
    return cells.FactorizedReduce(channels, _integers(key)["out"], odd)


def _depthwise_separable(key: OpKey) -> nn.Module:
    a = _integers(key)
    return cells.DepthwiseSeparable(_channels(key), a["kernel"], a["stride"], a["dilation"])


def _branch(key: OpKey) -> nn.Module:
    a = key.attribute
    return cells.Branch(_channels(key), str(a["body"]), int(a["kernel"]))


def _resize(key: OpKey) -> nn.Module:
    a = _integers(key)
    return cells.Resize(a["height"], a["width"])


def _convolution(make: Callable[[int, int, int, int], nn.Module]) -> Callable[[OpKey], nn.Module]:
    """A kind with the attributes kernel, out and stride."""

    def build(key: OpKey) -> nn.Module:
        a = _integers(key)
        return make(_channels(key), a["out"], a["kernel"], a["stride"])

    return build


def _on_channels(make: Callable[[int, int, int], nn.Module]) -> Callable[[OpKey], nn.Module]:
    """A kind with the attributes kernel and stride that keeps the channels."""

    def build(key: OpKey) -> nn.Module:
        a = _integers(key)
        return make(_channels(key), a["kernel"], a["stride"])

    return build


def _pool(make: Callable[[int, int], nn.Module]) -> Callable[[OpKey], nn.Module]:
    def build(key: OpKey) -> nn.Module:
        a = _integers(key)
        return make(a["kernel"], a["stride"])

    return build


def _integers(key: OpKey) -> dict[str, int]:
    return {name: int(value) for name, value in key.attributes}


KINDS: dict[str, Callable[[OpKey], nn.Module]] = {
    "add": lambda key: cells.Add(),
    "avg_pool": _pool(cells.AvgPool),
    "batch_norm": lambda key: BatchNorm2d(_channels(key)),
    "branch": _branch,
    "bn_relu": lambda key: cells.BNReLU(_channels(key)),
    "classifier": _classifier,
    "concat": lambda key: cells.Concat(),
    "concat_conv_bn": lambda key: cells.ConcatConvBN(_channels(key), len(key.input_shapes)),
    "conv_bn": _convolution(cells.ConvBN),
    "conv_bn_relu": _convolution(cells.ConvBNReLU),
    "conv_bn_relu6": _conv_bn_relu6,
    "depthwise_separable": _depthwise_separable,
    "factorized_conv": _on_channels(cells.FactorizedConv),
    "factorized_reduce": _factorized_reduce,
    "max_pool": _pool(cells.MaxPool),
    "mbconv": _mbconv,
    "relu_conv_bn": _convolution(cells.ReLUConvBN),
    "residual_reduce": lambda key: cells.ResidualReduce(_channels(key), _integers(key)["out"]),
    "resize": _resize,
    "sep_conv": _on_channels(cells.SepConv),
    "zeros": lambda key: cells.Zeros(key.input_shapes[0][0], _integers(key)["stride"]),
}


def op_module(key: OpKey) -> nn.Module:
    """The module behind a key, freshly initialised; `UnknownName` for a kind that is not ours."""
    try:
        make = KINDS[key.kind]
    except KeyError:
        raise UnknownName("operator", key.kind, KINDS) from None
    return make(key)
