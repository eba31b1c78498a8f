"""Units, pools, batch norms and mixtures of the kernels are torch's own in value and gradients."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from nasdeploy.search.cell_ops import (
    AvgPool,
    BNReLU,
    Chained,
    DepthwiseSeparable,
    FactorizedReduce,
    MaxPool,
    ReLUConvBN,
    SepConv,
    Zeros,
)
from nasdeploy.search.kernels.library import library
from nasdeploy.search.kernels.norm import BatchNorm2d
from nasdeploy.search.kernels.unit import Chain, weighted_chains
from nasdeploy.search.mixture import mixture
from nasdeploy.search.ops import ConvBNReLU6
from nasdeploy.search.sharing import shared, sharing

needs_compiler = pytest.mark.skipif(
    library() is None, reason="needs a C++ compiler: apt install g++"
)


def exact(module: nn.Module) -> nn.Module:
    """A copy in float64, which the kernels leave to torch."""
    return copy.deepcopy(module).double().train()


def scattered(modules: Sequence[nn.Module]) -> None:
    """Scales and shifts other than those that a batch norm begins with."""
    for module in modules:
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                nn.init.normal_(norm.weight, 1.0, 0.2)
                nn.init.normal_(norm.bias, 0.0, 0.2)


def far(found: Tensor, reference: Tensor) -> float:
    scale = reference.detach().abs().max().clamp(min=1e-9)
    return float((found.detach().double() - reference.detach()).abs().max() / scale)


def assert_alike(module: nn.Module, x: Tensor, *, within: float = 1e-5) -> None:
    """Outputs, all gradients and all buffers as in float64."""
    reference = exact(module)
    x64 = x.double().requires_grad_()
    expected = reference(x64)
    upstream = torch.randn_like(expected)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    found = module.train()(x)
    assert far(found, expected) < within
    for mine, theirs in zip(
        torch.autograd.grad(found, [x, *module.parameters()], upstream.float()),
        torch.autograd.grad(expected, [x64, *reference.parameters()], upstream),
        strict=True,
    ):
        assert far(mine, theirs) < within
    for mine, theirs in zip(module.buffers(), reference.buffers(), strict=True):
        assert far(mine, theirs.double()) < within


@needs_compiler
@pytest.mark.parametrize("channels", [3, 8, 20])
@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_a_unit_equals_its_parts_in_float64(
    channels: int, kernel: int, stride: int, dilation: int
) -> None:
    torch.manual_seed(channels + kernel)
    unit = DepthwiseSeparable(channels, kernel, stride, dilation)
    scattered([unit])
    for size in ((11, 12), (2, 2)):
        assert_alike(unit, torch.randn(3, channels, *size))


@needs_compiler
@pytest.mark.parametrize(("channels", "out_channels"), [(3, 8), (20, 20), (40, 13), (9, 80)])
def test_a_unit_without_depthwise_convolution_equals_its_parts_in_float64(
    channels: int, out_channels: int
) -> None:
    torch.manual_seed(channels)
    unit = ReLUConvBN(channels, out_channels, 1)
    assert unit.chain() is not None
    scattered([unit])
    for size in ((11, 12), (33, 2), (2, 2)):
        assert_alike(unit, torch.randn(3, channels, *size))


@needs_compiler
def test_other_convolutions_are_no_units() -> None:
    assert ReLUConvBN(4, 4, 3).chain() is None
    assert ReLUConvBN(4, 4, 1, stride=2).chain() is None


@needs_compiler
@pytest.mark.parametrize("stride", [1, 2])
def test_two_units_behind_each_other_equal_their_parts(stride: int) -> None:
    torch.manual_seed(stride)
    chain = SepConv(12, 5, stride)
    scattered([chain])
    assert_alike(chain, torch.randn(9, 12, 11, 8))


@needs_compiler
@pytest.mark.parametrize("make", [AvgPool, MaxPool])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 4)])
def test_a_pool_equals_the_stock_one(
    make: type[AvgPool | MaxPool], kernel: int, stride: int
) -> None:
    torch.manual_seed(kernel)
    # few values, so that several of a window are largest
    x = torch.randint(3, (2, 11, 9, 6)).float()
    assert_alike(make(kernel, stride), x)


@needs_compiler
@pytest.mark.parametrize("channels", [1, 8, 20, 31, 200])
@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.ReLU(), None])
def test_a_batch_norm_far_from_zero_equals_the_stock_one(
    channels: int, activation: nn.Module | None
) -> None:
    torch.manual_seed(channels)
    block = ConvBNReLU6(channels, channels, 1)
    block.conv = nn.Identity()  # type: ignore[assignment]
    block.act = nn.Identity() if activation is None else activation  # type: ignore[assignment]
    scattered([block])
    assert_alike(block, 3 * torch.randn(5, channels, 7, 3) + 50)


@needs_compiler
@pytest.mark.parametrize(("channels", "stride"), [(16, 1), (6, 2), (4, 1)])
def test_a_mixture_equals_the_sum_of_its_candidates_in_float64(channels: int, stride: int) -> None:
    torch.manual_seed(channels)
    skip = nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, (True, False))
    candidates: list[nn.Module] = [
        Zeros(channels, stride), MaxPool(3, stride), AvgPool(3, stride), skip,
        SepConv(channels, 3, stride), SepConv(channels, 5, stride),
        DepthwiseSeparable(channels, 3, stride, 2),
    ]  # fmt: skip
    scattered(candidates)
    ours = nn.ModuleList(candidates)
    reference = exact(ours)
    x = torch.randn(8, channels, 9, 10)
    x64, w64 = x.double().requires_grad_(), torch.rand(7, dtype=torch.float64).requires_grad_()
    expected = torch.stack(
        [w * c(x64) for w, c in zip(w64, reference.children(), strict=True)]
    ).sum(0)
    upstream = torch.randn_like(expected)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weights = w64.detach().float().requires_grad_()
    found = mixture(candidates, weights, x)
    assert far(found, expected) < 1e-5
    for mine, theirs in zip(
        torch.autograd.grad(found, [x, weights, *ours.parameters()], upstream.float()),
        torch.autograd.grad(expected, [x64, w64, *reference.parameters()], upstream),
        strict=True,
    ):
        assert far(mine, theirs) < 1e-5


@needs_compiler
@pytest.mark.parametrize("channels", [3, 20, 33])
@pytest.mark.parametrize("trained", [(0, 1, 2, 3), (1,), ()])
def test_unlike_chains_on_one_image_equal_their_sum_in_float64(
    channels: int, trained: tuple[int, ...]
) -> None:
    torch.manual_seed(channels)
    # not all that read the image can share a frame: strides and a kernel of 1 come between them
    parts: list[list[Chained]] = [
        [DepthwiseSeparable(channels, 7, 2, 2)],
        [DepthwiseSeparable(channels, 3, 2), DepthwiseSeparable(channels, 5)],
        [DepthwiseSeparable(channels, 5), DepthwiseSeparable(channels, 3, 2)],
        [ReLUConvBN(channels, channels, 1), DepthwiseSeparable(channels, 3, 2, 2)],
    ]
    for index, chain in enumerate(parts):
        scattered(chain)
        nn.Sequential(*chain).train().requires_grad_(index in trained)
    references = [exact(nn.Sequential(*chain)) for chain in parts]
    x = torch.randn(9, channels, 35, 38)
    x64 = x.double().requires_grad_()
    expected = torch.stack([reference(x64) for reference in references]).sum(0)
    upstream = torch.randn_like(expected)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    units = {i: tuple(cast(Chain, c.chain())[0] for c in chain) for i, chain in enumerate(parts)}
    found = weighted_chains(x, units, {})
    assert far(found, expected) < 1e-5
    ours = [p for i in trained for part in parts[i] for p in part.parameters()]
    theirs = [p for i in trained for p in references[i].parameters()]
    for mine, other in zip(
        torch.autograd.grad(found, [x, *ours], upstream.float()),
        torch.autograd.grad(expected, [x64, *theirs], upstream),
        strict=True,
    ):
        assert far(mine, other) < 1e-5


@needs_compiler
def test_the_number_of_threads_changes_no_bit() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(SepConv(20, 5, 1), MaxPool(3, 2), BNReLU(20)).train()
    x, found = torch.randn(11, 20, 12, 12), []
    threads = torch.get_num_threads()
    try:
        for count in (1, 3):
            torch.set_num_threads(count)
            own = copy.deepcopy(module)
            y = own(x)
            y.square().sum().backward()
            found.append([y.detach(), *(p.grad for p in own.parameters()), *own.buffers()])
    finally:
        torch.set_num_threads(threads)
    for one, three in zip(*found, strict=True):
        assert one is not None and three is not None and torch.equal(one, three)


def test_an_export_sees_stock_modules_alone() -> None:
    module = nn.Sequential(SepConv(8, 3, 1), MaxPool(3, 2), ConvBNReLU6(8, 8, 3)).eval()
    x = torch.randn(1, 8, 6, 6)
    program = torch.export.export(module, (x,))
    calls = [node.target for node in program.graph.nodes if node.op == "call_function"]
    assert calls and all("aten" in str(target) for target in calls)
    assert torch.allclose(program.module()(x), module(x))


def test_weights_are_named_as_in_stock_modules() -> None:
    assert list(BatchNorm2d(4).state_dict()) == list(nn.BatchNorm2d(4).state_dict())
    assert list(DepthwiseSeparable(4, 3).state_dict())[:3] == ["1.weight", "2.weight", "3.weight"]


def test_frozen_weights_get_no_gradients_and_the_input_the_same() -> None:
    torch.manual_seed(0)
    unit: Chained = SepConv(8, 3, 1).train()
    x = torch.randn(4, 8, 7, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    (free,) = torch.autograd.grad(unit(x).square().sum(), [x])
    unit.requires_grad_(False)
    unit(x).square().sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, free, atol=1e-5)
    assert all(parameter.grad is None for parameter in unit.parameters())


def test_what_is_shared_is_computed_once_in_a_pass_and_anew_in_the_next() -> None:
    computed = []

    def doubled(x: Tensor) -> Tensor:
        computed.append(x)
        return 2 * x

    x = torch.ones(2)
    for _ in range(2):
        with sharing():
            assert shared(x, "double", doubled) is shared(x, "double", doubled)
            assert shared(x + 1, "double", doubled).tolist() == [4.0, 4.0]
    assert len(computed) == 4
