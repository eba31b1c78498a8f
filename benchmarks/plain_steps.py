"""The networks of the published searches as they are commonly written: what ours are held against.

Stock modules, NCHW, every candidate of every edge computed for itself, activations and batch norms
where the published codes have them. DARTS and PC-DARTS (quark0/darts, yuhuixu1993/PC-DARTS): batch
norms of candidates without parameters, sums of products by weight, ``none`` as a multiplication by
zero; no batch norm behind pools, since the step that it is held against has none. ProxylessNAS and
ENAS: our supernets with torch's own modules in place of ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from random import Random
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasdeploy.search.cell_ops import AvgPool, BNReLU, Chained, ConvBNReLU, MaxPool
from nasdeploy.search.cells import reduction_layers
from nasdeploy.search.kernels.depthwise import DepthwiseConv2d
from nasdeploy.search.kernels.norm import BatchNorm2d
from nasdeploy.search.ops import ConvBNReLU6
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.spaces import make_space
from nasdeploy.search.spaces.darts import NODES, OPERATORS
from nasdeploy.search.supernet import SinglePath, Supernet
from nasdeploy.search.task import Classification

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
        pool_norm: bool = False,
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
            self.cells.append(MixedCell((before, last), channels, reduction, was, share, pool_norm))
            before, last, was = last, NODES * channels, reduction
        self.kinds = [int(layer in reduction_layers(layers)) for layer in range(layers)]
        self.classifier = nn.Linear(last, classes)
        self.alphas = [nn.Parameter(1e-3 * torch.randn(EDGES, len(OPERATORS))) for _ in range(2)]
        self.betas = [nn.Parameter(1e-3 * torch.randn(EDGES)) for _ in range(2 * (share > 1))]

    def forward(self, x: Tensor) -> Tensor:
        weights = [alpha.softmax(1) for alpha in self.alphas]
        edges = [
            torch.cat(
                [part.softmax(0) for part in torch.split(beta, [n + 2 for n in range(NODES)])]
            )
            for beta in self.betas
        ]
        a = b = self.stem(x)
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            a, b = b, cell(a, b, weights[kind], edges[kind] if edges else None)
        return cast(Tensor, self.classifier(b.mean((2, 3))))

    def architecture(self) -> list[nn.Parameter]:
        return [*self.alphas, *self.betas]


def stock(module: nn.Module) -> nn.Module:
    """A copy of a module of ours in which all that is not torch's own is."""
    if isinstance(module, DepthwiseConv2d):
        conv = nn.Conv2d(
            module.in_channels, module.out_channels, module.kernel_size[0], module.stride[0],
            module.dilation[0] * (module.kernel_size[0] - 1) // 2, module.dilation[0],
            groups=module.groups, bias=False,
        )  # fmt: skip
        conv.load_state_dict(module.state_dict())
        return conv
    if isinstance(module, AvgPool | MaxPool):
        kernel, stride = module.window
        if isinstance(module, MaxPool):
            return nn.MaxPool2d(kernel, stride, kernel // 2)
        return nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)
    if isinstance(module, BatchNorm2d):
        norm = nn.BatchNorm2d(module.num_features, module.eps)
        norm.load_state_dict(module.state_dict())
        return norm
    if isinstance(module, Chained | ConvBNReLU | BNReLU | ConvBNReLU6):
        return nn.Sequential(*(stock(child) for child in module.children()))
    same = copy.copy(module)
    same._modules = {n: stock(c) for n, c in module.named_children()}
    return same


class TwoPaths:
    """A `Mixing` of two candidates by binary gates, the second without gradients."""

    def __init__(self, choices: Sequence[int], rng: Random) -> None:
        self.pairs = [rng.sample(range(n), 2) if n > 1 else [0] for n in choices]
        self.gates = [nn.Parameter(torch.tensor([1.0, 0.0])) for _ in choices]

    def __call__(self, decision: int, candidates: Sequence[nn.Module], *inputs: Tensor) -> Tensor:
        pair, gates = self.pairs[decision], self.gates[decision]
        outputs = [cast(Tensor, candidates[index](*inputs)) for index in pair]
        if len(pair) == 1:
            return outputs[0]
        return gates[0] * outputs[0] + gates[1] * outputs[1].detach()


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=0.025, momentum=0.9, weight_decay=3e-4)


def images(batch: int, size: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 3, size, size, generator=generator)
    return x, torch.randint(10, (batch,), generator=generator)


def step_of(case: str) -> Callable[[], None]:
    """One step of a case of `supernet_step.py`."""
    if case == "darts":
        return _first_order(MixedNetwork(), *images(64, 32))
    if case == "pc-darts":
        return _first_order(MixedNetwork(share=4), *images(64, 32))
    if case == "darts-second-order":
        return _second_order(MixedNetwork(), *images(16, 32))
    return _paths(case)


def _first_order(model: MixedNetwork, x: Tensor, y: Tensor) -> Callable[[], None]:
    weights, adam = sgd(model), torch.optim.Adam(model.architecture(), lr=3e-4)

    def step() -> None:
        for optimizer in (adam, weights):  # each backward pass has all gradients, as published
            model.zero_grad()
            optimizer.zero_grad()
            functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            if optimizer is weights:
                nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()

    return step


def _second_order(model: MixedNetwork, x: Tensor, y: Tensor) -> Callable[[], None]:
    weights, adam = sgd(model), torch.optim.Adam(model.architecture(), lr=3e-4)
    parameters, rate = list(model.parameters()), 0.025

    def loss() -> Tensor:
        return functional.cross_entropy(model(x), y)

    def moved(by: Sequence[Tensor], scale: float) -> None:
        with torch.no_grad():
            for parameter, change in zip(parameters, by, strict=True):
                parameter.add_(change, alpha=scale)

    def step() -> None:
        inner = torch.autograd.grad(loss(), parameters)
        moved(inner, -rate)
        alphas = model.architecture()
        direct = torch.autograd.grad(loss(), [*alphas, *parameters])
        vector = direct[len(alphas) :]
        moved(inner, rate)
        radius = 0.01 / float(torch.cat([v.flatten() for v in vector]).norm())
        moved(vector, radius)
        up = torch.autograd.grad(loss(), alphas)
        moved(vector, -2 * radius)
        down = torch.autograd.grad(loss(), alphas)
        moved(vector, radius)
        for alpha, own, a, b in zip(alphas, direct, up, down, strict=False):
            alpha.grad = own - rate / (2 * radius) * (a - b)
        adam.step()
        weights.zero_grad()
        loss().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, 5.0)
        weights.step()

    return step


def _paths(case: str) -> Callable[[], None]:
    space, batch, size = path_space(case)
    archs = drawn(space)
    supernet = space.supernet(SinglePath(archs[0]), task=Classification())
    supernet.body = stock(supernet.body)
    model = Supernet(supernet.body, lambda arch: supernet.body).train()
    (x, y), weights = images(batch, size), sgd(model)
    choices = [len(decision.choices) for decision in space.decisions]

    def step() -> None:
        for number, arch in enumerate(archs):
            two = TwoPaths(choices, Random(number))
            with model.mixed_by(two if case == "proxyless-arch" else SinglePath(arch)):
                weights.zero_grad()
                functional.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
            if case != "proxyless-arch":
                weights.step()

    return step


def path_space(case: str) -> tuple[SearchSpace, int, int]:
    """(space, batch, size) of a case that takes paths."""
    if case == "enas":
        return make_space("enas-micro", channels=20, layers=8), 64, 32
    return make_space("mobile", input_shape=(3, 96, 96), classes=10), 16, 96


PATHS = 4
"""Steps that take paths are means over so many, the same for both sides."""


def drawn(space: SearchSpace) -> list[Arch]:
    rng = Random(0)
    return [space.sample(rng) for _ in range(PATHS)]
