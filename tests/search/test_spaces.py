"""What every space promises, whoever wrote it."""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import Any

import pytest
import torch
from small_spaces import SMALL, small
from torch import Tensor, nn

from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.search.counters import REDUCE, count, counted_cost
from nasdeploy.search.ops import op_module
from nasdeploy.search.space import Deployment, SearchSpace, check_arch, size_of
from nasdeploy.search.spaces import make_space
from nasdeploy.search.supernet import SinglePath
from nasdeploy.search.task import Classification
from nasdeploy.search.wired_space import PlannedSpace
from nasdeploy.search.wiring import all_archs, output_shape

TASK = Classification()
NOT_MIXED = {"mobile-elastic"}  # its paths have different shapes
WIRED = sorted(set(SMALL) - {"mobile-small"})


@pytest.fixture(params=sorted(SMALL))
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return small(str(request.param))


def test_a_sum_over_the_terms_is_what_a_built_network_counts(space: SearchSpace) -> None:
    whats = ("macs", "params", "memory_bytes")
    with torch.device("meta"):
        counted = {str(op.key): count(op.build(), op.input_shapes) for op in space.all_ops()}
    sizes = [len(decision.choices) for decision in space.decisions]
    costs = {}
    for what in whats:
        values = {key: float(counts.value(what, "fp32")) for key, counts in counted.items()}
        costs[what] = CompiledCost.compile(
            space.cost_terms(), values, sizes, reduce=REDUCE[what], what=what
        )
    rng = Random(2)
    archs, reach = [space.sample(rng) for _ in range(4)], costs["macs"].range()
    for arch in (*archs, reach.lowest, reach.highest):
        counts = count(space.build(arch, task=TASK), [space.deployment.input_shape])
        for what, cost in costs.items():
            assert cost.of(arch) == counts.value(what, "fp32"), what
        assert reach.low <= counts.macs <= reach.high


@pytest.mark.parametrize("space", WIRED, indirect=True)
def test_the_terms_name_the_operators_that_a_plan_has(space: SearchSpace) -> None:
    assert isinstance(space, PlannedSpace)
    rng = Random(3)
    for _ in range(20):
        arch = space.sample(rng)
        named: Counter[str] = Counter()
        for term in space.cost_terms():
            row = 0
            for decision, choices in zip(term.decisions, term.choices, strict=True):
                row = row * choices + arch[decision]
            for key in term.op_keys[row]:
                named[key] += term.multiplicity
        plan = space.plan(arch)
        assert named == Counter(
            [*(str(s.key) for s in plan.steps), str(space.head_key(plan.shape))]
        )


@pytest.mark.parametrize("space", WIRED, indirect=True)
def test_a_plan_is_what_runs_in_the_network(space: SearchSpace) -> None:
    assert isinstance(space, PlannedSpace)
    arch = space.sample(Random(4))
    network = space.build(arch, task=TASK).eval()
    seen: list[str] = []

    def note(name: str) -> Any:
        return lambda module, inputs, output: seen.append(name)

    for name, child in network.named_children():
        child.register_forward_hook(note(name))
    network(torch.zeros(1, *space.deployment.input_shape))
    assert sorted(seen) == sorted(["head", *(step.name for step in space.plan(arch).steps)])


def test_every_operator_gives_the_shape_that_its_key_says(space: SearchSpace) -> None:
    for op in space.all_ops():
        if op.key.kind != "classifier":
            inputs = [torch.zeros(1, *shape) for shape in op.input_shapes]
            assert op_module(op.key).eval()(*inputs).shape[1:] == output_shape(op.key)


def test_an_extracted_network_computes_the_supernet_s_path(space: SearchSpace) -> None:
    torch.manual_seed(0)
    supernet = space.supernet(SinglePath(()), task=TASK).eval()
    x, rng = torch.randn(2, *space.deployment.input_shape), Random(5)
    for _ in range(6):
        arch = space.sample(rng)
        network = supernet.extract(arch)
        with supernet.mixed_by(SinglePath(arch)), torch.no_grad():
            assert torch.allclose(supernet(x), network(x), atol=1e-6)
        assert list(network.state_dict()) == list(space.build(arch, task=TASK).state_dict())


def test_a_mixing_of_all_candidates_reaches_every_weight_of_the_supernet() -> None:
    class Mean:
        def __call__(self, decision: int, candidates: Any, *inputs: Tensor) -> Tensor:
            outputs = [candidate(*inputs) for candidate in candidates]
            return torch.stack(outputs).mean(0)

    for name in sorted(set(SMALL) - NOT_MIXED):
        space = small(name)
        supernet = space.supernet(Mean(), task=TASK)
        loss = supernet(torch.randn(2, *space.deployment.input_shape)).square().sum()
        loss.backward()
        assert all(parameter.grad is not None for parameter in supernet.parameters()), name


def test_a_path_of_a_supernet_can_be_trained(space: SearchSpace) -> None:
    torch.manual_seed(0)
    arch = space.sample(Random(6))
    supernet = space.supernet(SinglePath(arch), task=TASK)
    network = space.build(arch, task=TASK).to(memory_format=torch.channels_last)
    for model in (supernet, network):
        x = torch.randn(4, *space.deployment.input_shape).to(memory_format=torch.channels_last)
        loss = TASK.loss(model(x), torch.tensor([0, 1, 2, 3]))
        loss.backward()  # type: ignore[no-untyped-call]
        assert any(
            parameter.grad is not None and parameter.grad.abs().sum() > 0
            for parameter in model.parameters()
        )


def test_what_is_drawn_or_changed_lies_in_the_space(space: SearchSpace) -> None:
    rng = Random(7)
    arch = space.sample(rng)
    for _ in range(100):
        child = space.mutate(arch, rng)
        check_arch(space, child)
        assert child != arch
        arch = child
    assert space.sample(Random(8)) == space.sample(Random(8))


def test_a_configuration_makes_the_same_space_again(space: SearchSpace) -> None:
    again = make_space(json.loads(json.dumps(space.config)))
    assert again.config == space.config
    assert again.decisions == space.decisions
    assert again.all_ops() == space.all_ops()


def test_a_network_can_be_trained_at_another_shape(space: SearchSpace) -> None:
    arch, proxy = space.sample(Random(9)), Deployment((1, 16, 11), 3)
    network: nn.Module = space.build(arch, task=TASK, deployment=proxy)
    assert network(torch.zeros(2, 1, 16, 11)).shape == (2, 3)


def test_the_exact_range_is_that_of_all_architectures_where_neighbours_shapes_depend() -> None:
    space = small("mobile-elastic")
    cost = counted_cost(space, "macs")
    archs = all_archs(space.decisions)
    assert len(archs) == size_of(space) == 2 * (2 * 2 * 4 * 4) * (2 * 4)
    everything = cost(archs)
    reach = cost.range()
    assert (reach.low, reach.high) == (everything.min(), everything.max())
    for arch in (reach.lowest, reach.highest, *archs[::97]):
        network = space.build(arch, task=TASK)
        assert count(network, [space.deployment.input_shape]).macs == cost.of(arch)
