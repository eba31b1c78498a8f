"""Large depthwise convolutions as sums of small ones: the same numbers, and what stays whole."""

from __future__ import annotations

import copy
from pathlib import Path

import exportable
import pytest
import torch
from torch import Tensor, nn

from nasdeploy.export.depthwise import rows_in_parts, split_depthwise
from nasdeploy.export.exporters import EXPORTERS, SUFFIX
from nasdeploy.export.parity import compare
from nasdeploy.export.quantise import calibration_for_latency
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.ops import op_module


def depthwise(kernel: int | tuple[int, int], **others: int | tuple[int, int]) -> nn.Conv2d:
    side = (kernel, kernel) if isinstance(kernel, int) else kernel
    settings = {"padding": (side[0] // 2, side[1] // 2), **others}
    return nn.Conv2d(4, 4, side, groups=4, **settings)  # type: ignore[arg-type]


def kernels(model: nn.Module) -> list[tuple[int, int]]:
    return [
        (part.kernel_size[0], part.kernel_size[1])
        for part in model.modules()
        if isinstance(part, nn.Conv2d)
    ]


@pytest.mark.parametrize("most", [2, 3, 5])
@pytest.mark.parametrize("rows", range(4, 13))
def test_every_row_is_in_one_part_around_the_middle(rows: int, most: int) -> None:
    parts = rows_in_parts(rows, most)
    assert sorted(row for part in parts for row in part) == list(range(rows))
    for part in parts:
        assert len(part) <= most
        assert part[0] == rows - 1 - part[-1]


@pytest.mark.parametrize(
    "whole",
    [
        depthwise(7),
        depthwise(7, stride=2),
        depthwise(7, padding=9, dilation=3),
        depthwise((9, 5), stride=(2, 1)),
        depthwise((6, 6), padding=3),
        depthwise(11),
    ],
    ids=str,
)
def test_a_sum_of_small_convolutions_computes_what_the_large_one_does(whole: nn.Conv2d) -> None:
    x = torch.randn(2, 4, 13, 14)
    other = split_depthwise(copy.deepcopy(whole).eval(), (x,))
    assert len(kernels(other)) > 1
    assert max(height * width for height, width in kernels(other)) <= 25
    torch.testing.assert_close(other(x), whole(x))


class Net(nn.Module):
    """Batch norms that belong to a convolution alone, and one that does not."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(depthwise(7, bias=False), nn.BatchNorm2d(4), nn.ReLU6())
        self.shared = depthwise(7)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.shared(self.first(x))
        normed: Tensor = self.norm(y)
        return y + normed


def test_batch_norms_go_into_the_weights_of_what_they_alone_follow() -> None:
    torch.manual_seed(0)
    net, x = Net(), torch.randn(8, 4, 12, 12)
    net(x)  # statistics that are not those of the beginning
    wanted = net.eval()(x)
    other = split_depthwise(net, (x,))
    torch.testing.assert_close(other(x), wanted)
    graph = torch.export.export(other, (x,)).graph
    left = [node for node in graph.nodes if "batch_norm" in str(node.target)]
    assert [str(node.args[1]) for node in left] == ["p_norm_weight"]
    assert kernels(other) == [(3, 7), (2, 7), (2, 7)] * 2


def test_a_convolution_of_mobile_is_split_where_its_block_calls_it() -> None:
    key = OpKey.parse("mbconv[expand=3,kernel=7,out=24,stride=2](16x14x14)")
    module = op_module(key).eval()
    x = torch.randn(2, *key.input_shapes[0])
    wanted = module(x)
    assert (7, 7) in kernels(module)
    torch.testing.assert_close(split_depthwise(module, (x,))(x), wanted, rtol=1e-4, atol=1e-5)
    assert (7, 7) not in kernels(module)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.same = depthwise(7)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.same(self.same(x))
        return y


@pytest.mark.parametrize(
    "model",
    [
        depthwise(5),
        depthwise(7, padding=0),
        depthwise(13),
        nn.Conv2d(4, 8, 7, padding=3, groups=4),
        nn.Conv2d(4, 4, 7, padding=3),
        nn.Conv2d(4, 4, 7, padding=3, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, 7, padding="same", groups=4),
        Twice(),
    ],
    ids=["small", "no padding", "wide", "more out", "dense", "reflect", "same", "called twice"],
)
def test_what_cannot_be_split_stays_whole(model: nn.Module) -> None:
    before = kernels(model)
    assert kernels(split_depthwise(model.eval(), (torch.zeros(1, 4, 14, 14),))) == before


@pytest.mark.parametrize(("precision", "decibels"), [("fp32", 80), ("int8", 22)])
@pytest.mark.parametrize("runtime", ["executorch", "litert"])
def test_xnnpack_gets_no_kernel_that_is_larger_than_it_has(
    runtime: str, precision: str, decibels: int, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    block = exportable.Block(8, 8, 7, 3, 2).eval()
    shape = (8, 10, 10)
    artifact = EXPORTERS[runtime](
        block,
        (torch.zeros(1, *shape),),
        tmp_path / f"block{SUFFIX[runtime]}",
        precision="int8" if precision == "int8" else "fp32",
        target="x86-64",
        calibration=calibration_for_latency([shape]),
    )
    assert artifact.delegated_share == 1
    assert kernels(block) == [(1, 1), (7, 7), (1, 1)]
    (x,) = calibration_for_latency([shape]).batches[0]
    with torch.no_grad():
        parity = compare(block(x).numpy(), exportable.run_file(artifact, x))
    assert parity.sqnr_db is not None and parity.sqnr_db > decibels
    if runtime == "litert":
        from ai_edge_litert.interpreter import Interpreter

        details = Interpreter(str(artifact.path))._get_ops_details()
        assert sum(op["op_name"] == "DEPTHWISE_CONV_2D" for op in details) == 3
