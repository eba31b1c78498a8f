"""The networks of the published searches as they are commonly written: what our steps are held against.

Stock modules, NCHW, every candidate of every edge computed for itself, activations and batch norms
in place where the published codes have them. DARTS and PC-DARTS (quark0/darts, yuhuixu1993/PC-DARTS):
batch norms of candidates without parameters and one behind each pool, sums of products by weight,
``none`` as a multiplication by zero. ProxylessNAS and ENAS: one module per block, one path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasdeploy.search.cells import reduction_layers
from nasdeploy.search.spaces.darts import NODES, OPERATORS

EDGES = sum(node + 2 for node in range(NODES))


def relu_conv_bn(in_channels: int, out_channels: int, affine: bool) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels, affine=affine),
    )


def depthwise(
    channels: int, kernel: int, stride: int, dilation: int = 1, affine: bool = False
) -> nn.Module:
    padding = dilation * (kernel - 1) // 2
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(
            channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False
        ),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels, affine=affine),
    )


def separable(channels: int, kernel: int, stride: int, affine: bool = False) -> nn.Module:
    return nn.Sequential(
        depthwise(channels, kernel, stride, affine=affine),
        depthwise(channels, kernel, 1, affine=affine),
    )


class Reduce(nn.Module):
    """Half the size by two shifted 1x1 convolutions."""

    def __init__(self, in_channels: int, out_channels: int, affine: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, out_channels // 2, 1, 2, bias=False)
        self.second = nn.Conv2d(in_channels, out_channels - out_channels // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(out_channels, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(x)
        parts = [self.first(x), self.second(x[:, :, 1:, 1:])]
        return cast(Tensor, self.norm(torch.cat(parts, 1)))


class Nothing(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


def pooled(kind: str, channels: int, stride: int, norm: bool) -> nn.Module:
    pool: nn.Module = nn.MaxPool2d(3, stride, 1)
    if kind.startswith("avg"):
        pool = nn.AvgPool2d(3, stride, 1, count_include_pad=False)
    return nn.Sequential(pool, nn.BatchNorm2d(channels, affine=False)) if norm else pool


def candidate(name: str, channels: int, stride: int, *, pool_norm: bool = True) -> nn.Module:
    kind, _, size = name.rpartition("_")
    if name == "none":
        return Nothing(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else Reduce(channels, channels, False)
    kernel = int(size[0])
    if kind.endswith("pool"):
        return pooled(kind, channels, stride, pool_norm)
    if kind == "sep_conv":
        return separable(channels, kernel, stride)
    return depthwise(channels, kernel, stride, 2)


class MixedEdge(nn.Module):
    """All operators of an edge, weighed: on one of `share` of the channels, the others pass."""

    def __init__(self, channels: int, stride: int, share: int, pool_norm: bool) -> None:
        super().__init__()
        self.share = share
        self.operators = nn.ModuleList(
            candidate(name, channels // share, stride, pool_norm=pool_norm) for name in OPERATORS
        )
        self.rest = nn.MaxPool2d(2, 2) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        if self.share == 1:
            return self._mixed(x, weights)
        kept = x.shape[1] // self.share
        parts = [self._mixed(x[:, :kept], weights), self.rest(x[:, kept:])]
        y = torch.cat(parts, 1)
        n, c, h, w = y.shape
        return y.view(n, self.share, c // self.share, h, w).transpose(1, 2).reshape(n, c, h, w)

    def _mixed(self, x: Tensor, weights: Tensor) -> Tensor:
        pairs = zip(weights, self.operators, strict=True)
        return cast(Tensor, sum(weight * operator(x) for weight, operator in pairs))


class MixedCell(nn.Module):
    def __init__(
        self, inputs: tuple[int, int], channels: int, reduction: bool, before: bool, share: int,
        pool_norm: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        first = Reduce if before else relu_conv_bn
        self.preprocess0 = first(inputs[0], channels, False)
        self.preprocess1 = relu_conv_bn(inputs[1], channels, False)
        self.edges = nn.ModuleList(
            MixedEdge(channels, 2 if reduction and source < 2 else 1, share, pool_norm)
            for node in range(NODES)
            for source in range(node + 2)
        )

    def forward(self, a: Tensor, b: Tensor, weights: Tensor, edge_weights: Tensor | None) -> Tensor:
        states, at = [self.preprocess0(a), self.preprocess1(b)], 0
        for node in range(NODES):
            along = [
                edge(state, weights[at + i])
                for i, (state, edge) in enumerate(
                    zip(states, self.edges[at : at + node + 2], strict=True)
                )
            ]
            if edge_weights is not None:
                along = [edge_weights[at + i] * part for i, part in enumerate(along)]
            states.append(cast(Tensor, sum(along)))
            at += node + 2
        return torch.cat(states[2:], 1)


class MixedNetwork(nn.Module):
    """The search network of DARTS, or of PC-DARTS with `share` above 1 and edge weights.

    Attributes:
        alphas: (edges, operators) for normal and for reduction cells.
        betas: (edges,) for both, with PC-DARTS.
    """

    def __init__(
        self, channels: int = 16, layers: int = 8, classes: int = 10, share: int = 1,
        pool_norm: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        stem = 3 * channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem)
        )
        before, last, self.cells, was = stem, stem, nn.ModuleList(), False
        for layer in range(layers):
            reduction = layer in reduction_layers(layers)
            channels *= 2 if reduction else 1
            self.cells.append(
                MixedCell((before, last), channels, reduction, was, share, pool_norm)
            )
            before, last, was = last, NODES * channels, reduction
        self.kinds = [int(layer in reduction_layers(layers)) for layer in range(layers)]
        self.classifier = nn.Linear(last, classes)
        self.alphas = [
            nn.Parameter(1e-3 * torch.randn(EDGES, len(OPERATORS))) for _ in range(2)
        ]
        self.betas = [nn.Parameter(1e-3 * torch.randn(EDGES)) for _ in range(2 * (share > 1))]

    def forward(self, x: Tensor) -> Tensor:
        weights = [alpha.softmax(1) for alpha in self.alphas]
        edges = [
            torch.cat([part.softmax(0) for part in beta.split([n + 2 for n in range(NODES)])])
            for beta in self.betas
        ]
        a = b = self.stem(x)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            a, b = b, cell(a, b, weights[kind], edges[kind] if edges else None)
        return cast(Tensor, self.classifier(b.mean((2, 3))))

    def architecture(self) -> list[nn.Parameter]:
        return [*self.alphas, *self.betas]


class PlainDepthwise(nn.Conv2d):
    """What stands in for our depthwise convolution where a path is built by the same keys."""


def inverted_residual(
    in_channels: int, out_channels: int, *, kernel: int, expand: int, stride: int
) -> nn.Module:
    """A block of ProxylessNAS: widen, filter, project; batch norm behind each, ReLU6 behind two."""
    inner = in_channels * expand
    parts: list[nn.Module] = []
    if expand != 1:
        parts += [nn.Conv2d(in_channels, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU6()]
    parts += [
        nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False),
        nn.BatchNorm2d(inner),
        nn.ReLU6(),
        nn.Conv2d(inner, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    block = nn.Sequential(*parts)
    return Residual(block) if stride == 1 and in_channels == out_channels else block


class Residual(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        return x + cast(Tensor, self.block(x))


Combine = Callable[[int, Sequence[nn.Module], Tensor], Tensor]
