"""The fast depthwise convolution is the stock one in value and gradients, and gives way to it."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, fx, nn

from nasdeploy.search.kernels.depthwise import KERNELS, DepthwiseConv2d
from nasdeploy.search.kernels.library import library

needs_compiler = pytest.mark.skipif(
    library() is None, reason="needs a C++ compiler: apt install g++"
)


def gradients(conv: nn.Conv2d, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x = x.detach().requires_grad_()
    y = conv(x)
    to_x, to_weight = torch.autograd.grad(y, [x, conv.weight], upstream)
    return y.detach(), to_x, to_weight


@needs_compiler
@pytest.mark.parametrize("channels", [3, 8, 20, 31, 96])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
@pytest.mark.parametrize("size", [(14, 14), (5, 9), (2, 2)])
def test_value_and_both_gradients_equal_the_stock_convolution_in_float64(
    channels: int, kernel: int, stride: int, dilation: int, size: tuple[int, int]
) -> None:
    torch.manual_seed(channels + kernel)
    ours = DepthwiseConv2d(channels, kernel, stride, dilation).train()
    padding = dilation * (kernel - 1) // 2
    stock = nn.Conv2d(
        channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False
    ).double()
    stock.weight.data.copy_(ours.weight.data)
    x = torch.randn(3, channels, *size, dtype=torch.float64)
    upstream = torch.randn_like(stock(x))
    exact = gradients(stock, x, upstream)
    found = gradients(
        ours, x.float().contiguous(memory_format=torch.channels_last), upstream.float()
    )
    for mine, theirs in zip(found, exact, strict=True):
        scale = theirs.abs().max().clamp(min=1e-9)
        assert float((mine.double() - theirs).abs().max() / scale) < 1e-5


@needs_compiler
def test_the_number_of_threads_changes_no_bit() -> None:
    conv = DepthwiseConv2d(72, 5).train()
    x, upstream = torch.randn(4, 72, 9, 9), torch.randn(4, 72, 9, 9)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = gradients(conv, x, upstream)[2]
        torch.set_num_threads(3)
        assert torch.equal(gradients(conv, x, upstream)[2], one)
    finally:
        torch.set_num_threads(threads)


def test_an_export_sees_the_stock_convolution_alone() -> None:
    graph = fx.symbolic_trace(nn.Sequential(DepthwiseConv2d(8, 3)).eval()).graph
    targets = [node.target for node in graph.nodes if node.op == "call_function"]
    assert targets == [torch.conv2d]


def test_without_the_kernel_the_stock_convolution_trains() -> None:
    script = (
        "import torch\n"
        "from nasdeploy.search.kernels.depthwise import DepthwiseConv2d\n"
        "from nasdeploy.search.kernels.library import library\n"
        "assert library() is None\n"
        "conv = DepthwiseConv2d(8, 5).train()\n"
        "conv(torch.randn(1, 8, 6, 6)).sum().backward()\n"
        "assert conv.weight.grad is not None\n"
    )
    environment = {**os.environ, "NASDEPLOY_KERNELS": "0"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
