from __future__ import annotations

from random import Random

import numpy as np
import pytest
import torch

from nasdeploy.errors import BadInput, UnknownName, UsageError
from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.search.counters import count, counted_cost
from nasdeploy.search.evaluators.tabular import TabularEvaluator, load_nasbench201
from nasdeploy.search.spaces.nasbench201 import (
    NasBench201Space,
    from_string,
    to_string,
    unique_string,
)
from nasdeploy.search.strategy import Request
from nasdeploy.search.task import Classification
from nasdeploy.search.wiring import all_archs

SPACE = NasBench201Space()
ARCHS = all_archs(SPACE.decisions)
TASK = Classification()
BEST = "+".join(
    [
        "|nor_conv_3x3~0|",
        "|nor_conv_3x3~0|nor_conv_3x3~1|",
        "|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|",
    ]
)


def test_there_are_15625_cells_and_each_is_found_by_its_published_text() -> None:
    assert len(ARCHS) == 15_625
    assert [from_string(to_string(arch)) for arch in ARCHS[::7]] == ARCHS[::7]
    table = load_nasbench201()
    assert [table.arch(table.index(arch)) for arch in ARCHS[::7]] == ARCHS[::7]
    assert [table.index(arch) for arch in ARCHS] == list(range(15_625))


def test_they_fall_into_the_published_number_of_cells_that_are_unlike() -> None:
    # Dong and Yang (arXiv:2001.00326): 6,466 unlike cells; 12,751 if zeros are not identified
    assert len({unique_string(arch, zeros=True) for arch in ARCHS}) == 6_466
    assert len({unique_string(arch, zeros=False) for arch in ARCHS}) == 12_751


def test_a_network_has_as_many_parameters_as_the_published_one() -> None:
    table, rng = load_nasbench201(), Random(0)
    for arch in (from_string(BEST), *(SPACE.sample(rng) for _ in range(6))):
        with torch.device("meta"):
            network = SPACE.build(arch, task=TASK)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        # published in millions with two to four digits
        assert parameters == pytest.approx(table.params[table.index(arch)], abs=51)


def test_the_best_published_accuracies_are_those_of_the_paper_s_tables() -> None:
    table = load_nasbench201()
    assert table.accuracy("cifar10", "test").max() == pytest.approx(94.3733)
    assert table.accuracy("cifar100", "test").max() == pytest.approx(73.5133)


def test_a_cell_costs_what_is_computed_in_it_and_nothing_that_no_output_depends_on() -> None:
    small = NasBench201Space(input_shape=(3, 9, 8), classes=4, channels=4, cells=2)
    costs = {what: counted_cost(small, what) for what in ("params", "size_bytes")}
    rng = Random(1)
    for arch in ((0, 0, 0, 0, 0, 0), (3, 3, 3, 0, 0, 0), *(small.sample(rng) for _ in range(6))):
        network = small.build(arch, task=TASK)
        counts = count(network, [small.deployment.input_shape])
        for what, cost in costs.items():
            assert cost.of(arch) == counts.value(what, "fp32"), arch


def test_the_exact_range_is_that_of_all_cells() -> None:
    cost = counted_cost(NasBench201Space(channels=4, cells=1), "macs")
    everything = cost(np.array(ARCHS))
    reach = cost.range()
    assert (reach.low, reach.high) == (everything.min(), everything.max())


def test_a_cell_without_a_way_through_gives_zeros_and_still_is_a_network() -> None:
    small = NasBench201Space(input_shape=(3, 8, 8), classes=4, channels=4, cells=1)
    network = small.build((3, 0, 0, 0, 0, 0), task=TASK).eval()
    outputs = network(torch.randn(2, 3, 8, 8))
    assert torch.equal(outputs[0], outputs[1])


def test_what_several_edges_pool_of_one_node_is_pooled_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # node 1 is the input itself: three pools of it, in three stages of a cell each
    space, arch = NasBench201Space(channels=4, cells=1), (1, 2, 4, 4, 4, 2)
    kinds = [step.key.kind for step in space.plan(arch).steps]
    assert kinds.count("avg_pool") == 3
    pools = {str(op.key): float(op.key.kind == "avg_pool") for op in space.all_ops()}
    assert CompiledCost.compile(space.cost_terms(), pools, [5] * 6).of(arch) == 3
    network = space.build(arch, task=TASK).eval()
    monkeypatch.setattr(NasBench201Space, "once", False)
    plain = space.build(arch, task=TASK).eval()
    assert [step.key.kind for step in space.plan(arch).steps].count("avg_pool") == 9
    plain.load_state_dict(network.state_dict())
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(network(image), plain(image), rtol=0, atol=0)


def test_a_text_that_is_no_cell_says_how_one_reads() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'nor_conv_3x3'"):
        from_string(BEST.replace("nor_conv_3x3~0|+", "nor_conv_3x~0|+"))
    with pytest.raises(BadInput, match="one reads like"):
        from_string("|none~0|+|none~1|")
    with pytest.raises(UsageError, match="cells of nasbench201 is 0"):
        NasBench201Space(cells=0)


def test_the_tabular_evaluator_looks_up_what_was_published() -> None:
    table, arch = load_nasbench201(), from_string(BEST)
    evaluate = TabularEvaluator(table, dataset="cifar100", device="pixel3")
    ((number, metrics),) = evaluate([Request(5, arch, 0)])
    assert number == 5 and not isinstance(metrics, str)
    row = table.index(arch)
    assert metrics["accuracy"] == table.accuracy("cifar100", "valid")[row] / 100
    assert metrics["latency_ms"] == table.latency_ms("pixel3")[row]
    with pytest.raises(UnknownName, match="Did you mean 'pixel3'"):
        table.latency_ms("pixel4")
    with pytest.raises(UsageError, match="no accuracy of cifar10 valid after 90 epochs"):
        table.accuracy("cifar10", "valid", epochs=90)
