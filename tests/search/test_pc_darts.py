from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Sequence
from random import Random
from typing import Any, cast

import pytest
import torch
from small_cells import OneCell
from small_search import run_to_the_end, small_space, small_strategy
from small_spaces import small
from torch import nn
from torch.nn import functional

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.sharing import sharing
from nasdeploy.search.strategies.pc_darts import PcDarts
from nasdeploy.search.supernet import SinglePath
from nasdeploy.search.task import Classification
from nasdeploy.search.wired import PartialChoice, SupernetWiring
from nasdeploy.search.wired_space import WiredSpace
from nasdeploy.search.wiring import Wire

TASK = Classification()
CELL = OneCell()


@pytest.mark.parametrize("order", [1, 2])
def test_with_all_channels_and_no_edge_normalisation_it_is_darts(order: int) -> None:
    common: dict[str, Any] = {
        "warmup_epochs": 1,
        "search_epochs": 2,
        "arch_lr": 0.05,
        "order": order,
    }
    darts = small_strategy("darts", CELL, **common)
    pc_darts = small_strategy(
        "pc-darts", CELL, partial_channels=1, edge_normalisation=False, **common
    )
    assert run_to_the_end(darts) == run_to_the_end(pc_darts)
    assert isinstance(pc_darts, PcDarts)
    mine, theirs = pc_darts.relaxation.parameters(), darts.relaxation.parameters()  # type: ignore[attr-defined]
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize("stride", [1, 2])
def test_one_channel_in_four_is_operated_on_and_the_rest_passes_by_and_is_shuffled(
    stride: int, size: int
) -> None:
    """Equation 2, and the shuffle of ShuffleNet (CVPR 2018, arXiv:1707.01083) behind it."""
    shape = (16, size, size)
    keys = [OpKey.of("max_pool", [shape], kernel=3, stride=stride)]
    net = SupernetWiring(SinglePath((0,)), 4)
    network = net.finish(net.choose("edge", 0, keys, Wire("image", shape)), nn.Identity())
    x = torch.randn(2, *shape)
    rest = x[:, 4:] if stride == 1 else functional.max_pool2d(x[:, 4:], 2, 2, ceil_mode=True)
    chosen = functional.max_pool2d(x[:, :4], 3, stride, 1)
    expected = functional.channel_shuffle(torch.cat([chosen, rest], 1), 4)
    assert torch.equal(network(x), expected)
    last = network(x.to(memory_format=torch.channels_last))
    assert torch.equal(last, expected)
    assert last.is_contiguous(memory_format=torch.channels_last)


class _Weighed:
    """A mixing with an edge weight."""

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def __call__(
        self, decision: int, candidates: Sequence[nn.Module], *inputs: torch.Tensor
    ) -> torch.Tensor:
        return cast(torch.Tensor, self.weight * candidates[0](*inputs))

    def edge_weight(self, decision: int) -> torch.Tensor:
        return self.weight


@pytest.mark.parametrize(("channels", "partial"), [(8, 4), (20, 4), (6, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_two_edges_from_the_same_features_have_the_gradients_of_float64(
    stride: int, channels: int, partial: int
) -> None:
    """In training our kernels take turns; in float64, which they do not serve, torch does."""
    torch.manual_seed(channels)
    image = torch.randn(3, channels, 7, 5)
    upstream = torch.randn(3, channels, *(-(-size // stride) for size in (7, 5)))
    candidate = nn.Conv2d(channels // partial, channels // partial, 3, stride, 1)
    found = []
    for dtype in (torch.float32, torch.float64):
        x = image.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        weights = torch.tensor([0.3, -1.7], dtype=dtype).unbind()
        edges = [
            PartialChoice(
                0, [copy.deepcopy(candidate).to(dtype)], _Weighed(w.requires_grad_()), partial
            )
            for w in weights
        ]
        with sharing():
            y = sum(edge.train()(x) for edge in edges)
        taken = [x, *weights, *(p for edge in edges for p in edge.parameters())]
        found.append([y, *torch.autograd.grad(y, taken, upstream.to(dtype))])
    for mine, exact in zip(*found, strict=True):
        scale = float(exact.detach().abs().max())
        assert float((mine.detach().double() - exact.detach()).abs().max()) < 1e-5 * scale


def test_the_edges_into_a_node_are_weighed_and_the_weights_add_up_to_one() -> None:
    strategy = small_strategy("pc-darts", CELL)
    assert isinstance(strategy, PcDarts)
    relaxation = strategy.relaxation
    assert [len(beta) for beta in relaxation.betas] == [2, 3]
    with torch.no_grad():
        relaxation.betas[1].copy_(torch.tensor([0.0, 2.0, -1.0]))
        relaxation.alphas[4].copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))
    candidates = [nn.Identity() for _ in range(4)]
    of_edge = torch.tensor([0.0, 2.0, -1.0]).softmax(0)[1]
    mixed = relaxation(4, candidates, torch.tensor(3.0)).detach()
    assert float(mixed) == pytest.approx(3 * float(of_edge))


def test_the_weight_of_an_edge_is_one_of_the_channels_that_pass_by_too() -> None:
    """Equation 3: the edges' outputs are weighed whole."""
    strategy = small_strategy("pc-darts", CELL)
    assert isinstance(strategy, PcDarts)
    relaxation = strategy.relaxation
    with torch.no_grad():
        relaxation.betas[1].copy_(torch.tensor([0.0, 2.0, -1.0]))
    edge = PartialChoice(4, [nn.Identity() for _ in range(4)], relaxation, 4)
    x = torch.randn(2, 8, 5, 5)
    of_edge = torch.tensor([0.0, 2.0, -1.0]).softmax(0)[1]
    assert torch.allclose(edge(x), of_edge * functional.channel_shuffle(x, 4), atol=1e-6)


def test_betas_are_learned_and_decide_together_with_the_alphas() -> None:
    strategy = small_strategy("pc-darts", CELL, share=None, search_epochs=1)
    assert isinstance(strategy, PcDarts)
    before = [beta.detach().clone() for beta in strategy.relaxation.betas]
    run_to_the_end(strategy)
    after = strategy.relaxation.betas
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    for pair, beta in enumerate(([5.0, 5.0, 0.0], [5.0, 0.0, 5.0], [0.0, 5.0, 5.0])):
        with torch.no_grad():
            strategy.relaxation.betas[1].copy_(torch.tensor(beta))
        assert strategy.candidates(1)[0][2] == pair


def test_alphas_and_betas_stand_still_during_the_warm_up() -> None:
    strategy = small_strategy("pc-darts", CELL)
    assert isinstance(strategy, PcDarts)
    before = [parameter.detach().clone() for parameter in strategy.relaxation.parameters()]
    assert strategy.step()[0].phase == "warmup"
    after = strategy.relaxation.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    strategy.step()
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_path_is_what_the_supernet_computes_on_it_and_its_weights_fit_nothing_else() -> None:
    strategy = small_strategy("pc-darts", CELL)
    assert isinstance(strategy, PcDarts)
    strategy.step()
    supernet, arch = strategy.supernet.eval(), (3, 1, 2, 0, 2, 3)
    x = torch.randn(4, *CELL.deployment.input_shape)
    path = supernet.path(arch)
    with supernet.mixed_by(SinglePath(arch)), torch.no_grad():
        assert torch.allclose(supernet(x), path(x), atol=1e-6)
    taken = {name.partition(".candidates.")[0] for name, _ in path.named_parameters()}
    assert "node1_from2" in taken and "node1_from0" not in taken
    with torch.no_grad():
        next(path.parameters()).zero_()
    assert float(next(supernet.parameters()).abs().sum()) > 0
    with pytest.raises(UsageError, match="fit no stand-alone network"):
        supernet.extract(arch)


def test_spaces_and_channels_that_cannot_be_parted_are_refused() -> None:
    with pytest.raises(UsageError, match=r"mobile-small has no edges.*--strategy darts"):
        small_strategy("pc-darts", small_space())
    with pytest.raises(UsageError, match="An edge of 6 channels has no 4 equal parts"):
        small_strategy("pc-darts", OneCell(channels=6))


@pytest.mark.parametrize("name", ["darts", "enas-macro", "enas-micro", "nasbench201", "pnas"])
def test_every_space_of_cells_has_a_supernet_on_a_part_of_the_channels(name: str) -> None:
    space = small(name)
    assert isinstance(space, WiredSpace)
    whole, parted = (
        space.supernet(SinglePath(()), task=TASK, partial_channels=partial) for partial in (1, 2)
    )
    x, arch = torch.randn(2, *space.deployment.input_shape), space.sample(Random(3))
    with parted.mixed_by(SinglePath(arch)):
        parted(x).square().sum().backward()
    sizes = [sum(p.numel() for p in supernet.parameters()) for supernet in (whole, parted)]
    assert sizes[1] < sizes[0]
    assert list(whole.state_dict()) == list(parted.state_dict())


_PEAK = """
import json, sys
import torch
from nasdeploy.device_agent.runners.loop import own_peak_rss_bytes
from nasdeploy.search.relaxation import Relaxation
from nasdeploy.search.spaces import make_space
from nasdeploy.search.supernet import SinglePath
from nasdeploy.search.task import Classification

torch.set_num_threads(1)
partial = int(sys.argv[1])
space = make_space("darts", input_shape=[3, 32, 32], classes=10, channels=16, layers=3)
supernet = space.supernet(SinglePath(()), task=Classification(), partial_channels=partial)
supernet.to(memory_format=torch.channels_last)
mixing = Relaxation(
    supernet, space.decisions, generator=torch.Generator(), device=torch.device("cpu"),
    edge_weights=partial > 1,
)
def peak_after_a_step(images):
    x = torch.randn(images, 3, 32, 32).to(memory_format=torch.channels_last)
    with supernet.mixed_by(mixing):
        supernet(x).square().sum().backward()
    return own_peak_rss_bytes()

before = peak_after_a_step(2)  # what is loaded and built by any step
print(json.dumps((peak_after_a_step(64) - before) / 2**20))
"""


@pytest.mark.slow
def test_a_step_takes_less_than_half_the_memory_of_darts() -> None:
    """Peak resident MiB above what stood before the step, each in a process of its own."""
    darts, pc_darts = (
        json.loads(
            subprocess.run(
                [sys.executable, "-c", _PEAK, partial],
                capture_output=True, text=True, check=True, timeout=300,
            ).stdout
        )
        for partial in ("1", "4")
    )  # fmt: skip
    assert 10 < pc_darts < 0.5 * darts


def test_operators_that_change_the_channels_are_left_whole() -> None:
    supernet = CELL.supernet(SinglePath(()), task=TASK, partial_channels=4)
    parted = [name for name, m in supernet.body.named_modules() if isinstance(m, PartialChoice)]
    assert parted == ["node0_from0", "node0_from1", *(f"node1_from{i}" for i in range(3))]
    state = supernet.body.state_dict()
    assert state["second.1.weight"].shape == (8, 8, 1, 1)
    assert state["node1_from0.candidates.3.0.1.weight"].shape == (2, 1, 3, 3)
