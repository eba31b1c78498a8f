from __future__ import annotations

import math
from itertools import product
from random import Random

import numpy as np
import pytest
import torch
from small_search import bounds_of, milliseconds, run_to_the_end, small_space, small_strategy
from torch import Tensor, nn

from nasdeploy.errors import UnknownName
from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.search.expectation import expected_cost
from nasdeploy.search.reinforce import policy_loss
from nasdeploy.search.strategies import make_settings
from nasdeploy.search.strategies.proxyless import BinaryGates, Proxyless


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def gates_of(*alphas: list[float]) -> BinaryGates:
    gates = BinaryGates([len(alpha) for alpha in alphas], torch.device("cpu"))
    with torch.no_grad():
        for parameter, values in zip(gates.alphas, alphas, strict=True):
            parameter.copy_(torch.tensor(values))
    return gates


def test_the_gradient_of_a_gate_is_that_of_the_output_times_the_candidate() -> None:
    """Equation 4: dL/dalpha_i = sum_j dL/dg_j p_j (delta_ij - p_i), over the two drawn ones."""
    factors, gates = [2.0, -1.0, 5.0], gates_of([0.3, -0.2, 0.9])
    candidates, x = [Scale(factor) for factor in factors], torch.tensor([1.0, -3.0])
    gates.draw(Random(4))
    loss = (gates(0, candidates, x) ** 2).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    gates.gates_to_alphas()

    active, inactive = gates.pairs[0]
    upstream = 2 * factors[active] * x  # of sum(y ** 2) at y = active's output
    of_gate = {i: float((upstream * factors[i] * x).sum()) for i in (active, inactive)}
    alpha = gates.alphas[0].detach()
    exponentials = {i: math.exp(float(alpha[i])) for i in (active, inactive)}
    p = {i: value / sum(exponentials.values()) for i, value in exponentials.items()}
    expected = [
        sum(of_gate[j] * p[j] * ((i == j) - p[i]) for j in p) if i in p else 0.0 for i in range(3)
    ]
    assert gates.alphas[0].grad is not None
    assert gates.alphas[0].grad.tolist() == pytest.approx(expected, rel=1e-5)


def test_averaged_over_the_draws_it_is_the_exact_gradient_for_a_linear_loss() -> None:
    """With two candidates and a loss that is linear in the output, gates are unbiased."""
    gates = gates_of([0.4, -0.3])
    candidates, x = [Scale(2.0), Scale(-1.0)], torch.tensor(1.5)
    rng = Random(0)
    for _ in range(8):
        gates.draw(rng)
        gates(0, candidates, x).backward()  # type: ignore[no-untyped-call]
        gates.gates_to_alphas()
    estimate = gates.alphas[0].grad
    exact = torch.tensor([0.4, -0.3], requires_grad=True)
    (exact.softmax(0) @ torch.tensor([2.0, -1.0]) * 1.5).backward()  # type: ignore[no-untyped-call]
    assert estimate is not None and exact.grad is not None
    assert torch.allclose(estimate / 8, exact.grad, atol=1e-6)


def test_only_the_active_candidate_passes_a_gradient_on() -> None:
    gates = gates_of([0.0, 0.0, 0.0])
    x = torch.tensor(1.0, requires_grad=True)
    gates.draw(Random(1))
    gates(0, [Scale(2.0), Scale(3.0), Scale(5.0)], x).backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert float(x.grad) == [2.0, 3.0, 5.0][gates.pairs[0][0]]


def test_only_two_candidates_are_computed() -> None:
    computed: list[int] = []

    class Noted(nn.Module):
        def __init__(self, number: int) -> None:
            super().__init__()
            self.number = number

        def forward(self, x: Tensor) -> Tensor:
            computed.append(self.number)
            return x

    gates = gates_of([0.0] * 7)
    gates.draw(Random(0))
    gates(0, [Noted(number) for number in range(7)], torch.ones(2))
    assert sorted(computed) == sorted(gates.pairs[0])


def test_paths_are_drawn_as_often_as_their_probabilities_say() -> None:
    """Of two drawn without replacement, the active one still has probability p_i."""
    gates, rng = gates_of([1.0, 0.0, -1.0]), Random(0)
    drawn, sampled = np.zeros(3), np.zeros(3)
    for _ in range(4000):
        gates.draw(rng)
        drawn[gates.pairs[0]] += 1
        sampled[gates.sample(rng)[0]] += 1
    p = gates.probabilities()[0].detach().numpy()
    both = [p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(3) if j != i) for i in range(3)]
    # three standard deviations of 4,000 draws
    assert sampled / 4000 == pytest.approx(p, abs=3 * 0.5 / 4000**0.5)
    assert drawn / 4000 == pytest.approx(both, abs=3 * 0.5 / 4000**0.5)


def test_rescaling_keeps_the_probabilities_of_those_that_were_not_drawn() -> None:
    """Section 3.2.1: one drawn path is strengthened, the other weakened, the rest unchanged."""
    gates = gates_of([0.5, -0.5, 0.1, 0.0])
    gates.draw(Random(3))
    before = [alpha.detach().clone() for alpha in gates.alphas]
    earlier = gates.probabilities()[0].detach()
    with torch.no_grad():
        gates.alphas[0][gates.pairs[0][0]] += 0.7
        gates.alphas[0][gates.pairs[0][1]] -= 0.2
    gates.rescale(before)
    change = gates.probabilities()[0].detach() - earlier
    others = [i for i in range(4) if i not in gates.pairs[0]]
    assert torch.allclose(change[others], torch.zeros(2), atol=1e-6)
    assert change[gates.pairs[0][0]] > 0 > change[gates.pairs[0][1]]


def test_a_softmax_that_has_converged_still_draws_two() -> None:
    gates = gates_of([200.0, 0.0, 0.0])
    gates.draw(Random(0))
    assert len(set(gates.pairs[0])) == 2


def test_expected_cost_is_the_mean_over_all_architectures_and_so_is_its_gradient() -> None:
    rng = np.random.default_rng(0)
    choices = (2, 3, 2)
    tables = [
        ((), rng.random(())),
        ((0,), rng.random(2)),
        ((0, 1), rng.random((2, 3))),
        ((0, 1, 2), rng.random(choices)),
    ]
    cost = CompiledCost.of_tables(tables, choices)
    alphas = [torch.randn(n, dtype=torch.float64, requires_grad=True) for n in choices]
    expected = expected_cost(cost, [alpha.softmax(0) for alpha in alphas])
    enumerated = torch.stack(
        [
            cost.of(arch)
            * torch.stack([a.softmax(0)[c] for a, c in zip(alphas, arch, strict=True)]).prod()
            for arch in product(*map(range, choices))
        ]
    ).sum()
    assert expected.item() == pytest.approx(enumerated.item(), rel=1e-12)
    mine = torch.autograd.grad(expected, alphas)
    theirs = torch.autograd.grad(enumerated, alphas)
    assert all(torch.allclose(a, b, rtol=1e-10) for a, b in zip(mine, theirs, strict=True))


def test_the_mean_reinforce_estimate_is_the_gradient_of_the_mean_reward() -> None:
    """Section 3.3.2, over all architectures: sum of p * estimate = d/dalpha sum of p * reward."""
    gates = gates_of([0.3, -0.2, 0.9], [0.0, 1.0], [0.5, 0.5, -0.5])
    archs = list(product(range(3), range(2), range(3)))
    rewards = torch.randn(len(archs), generator=torch.Generator().manual_seed(0))
    drawn = gates.log_prob(archs)
    p = torch.stack(
        [
            torch.stack([a.softmax(0)[c] for a, c in zip(gates.alphas, arch, strict=True)]).prod()
            for arch in archs
        ]
    )
    assert torch.allclose(drawn.log_probs.exp(), p)
    assert float(p.sum().detach()) == pytest.approx(1)
    expected = torch.autograd.grad((p * rewards).sum(), gates.alphas)
    mean = [torch.zeros_like(alpha) for alpha in gates.alphas]
    for arch, reward, chance in zip(archs, rewards.tolist(), p.tolist(), strict=True):
        loss = policy_loss(gates.log_prob([arch]).log_probs, [reward - 0.4])
        for total, part in zip(mean, torch.autograd.grad(loss, gates.alphas), strict=True):
            total -= chance * part
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mean, expected, strict=True))


def test_with_reinforce_the_architecture_half_moves_alpha_by_rewards_alone() -> None:
    strategy = small_strategy("proxyless-reinforce", warmup_epochs=0, search_epochs=2)
    assert isinstance(strategy, Proxyless)
    strategy.step()
    assert not strategy.gates.pairs  # no gate was drawn
    assert any(bool((alpha != 0).any()) for alpha in strategy.gates.alphas)


@pytest.mark.parametrize(("term", "weight"), [("add", 1e3), ("multiply", 20.0)])
def test_an_overwhelming_weight_on_latency_ends_at_the_fastest_network(
    term: str, weight: float
) -> None:
    space = small_space()
    strategy = small_strategy(
        "proxyless", space, share=1.0, latency_term=term, latency_weight=weight, arch_lr=0.5
    )
    trials = run_to_the_end(strategy)
    assert strategy.candidates(1) == [milliseconds(space).range().lowest]
    expected = [trial.metrics["expected_latency_ms"] for trial in trials]
    assert expected[-1] < expected[0]


def test_reinforce_with_an_overwhelming_weight_on_latency_expects_less_of_it() -> None:
    strategy = small_strategy(
        "proxyless-reinforce", share=1.0, latency_term="add", latency_weight=30.0, search_epochs=24
    )
    low = milliseconds(small_space()).range().low
    expected = [trial.metrics["expected_latency_ms"] for trial in run_to_the_end(strategy)]
    assert expected[-1] - low < 0.6 * (expected[0] - low)


def test_the_excess_term_pushes_down_to_the_bound_and_no_further() -> None:
    strategy = small_strategy("proxyless", share=0.3, latency_term="excess", latency_weight=1e3)
    bound = bounds_of(small_space(), 0.3).latency_ms
    assert bound is not None
    expected = [trial.metrics["expected_latency_ms"] for trial in run_to_the_end(strategy)]
    assert expected[0] > 1.1 * bound
    assert expected[-1] == pytest.approx(bound, rel=0.05)


def test_candidates_are_the_most_probable_within_the_bounds_by_brute_force() -> None:
    space = small_space(stages=((8, 2, 2),))
    strategy = small_strategy("proxyless", space, share=0.3)
    assert isinstance(strategy, Proxyless)
    with torch.no_grad():
        for alpha in strategy.gates.alphas:
            alpha.copy_(
                torch.randn(len(alpha), generator=torch.Generator().manual_seed(len(alpha)))
            )
    probabilities = [p.tolist() for p in strategy.gates.probabilities()]
    every = list(product(*[range(len(decision.choices)) for decision in space.decisions]))
    held = [a for a, ok in zip(every, bounds_of(space, 0.3).admits(every), strict=True) if ok]
    held.sort(key=lambda a: -math.prod(p[c] for p, c in zip(probabilities, a, strict=True)))
    assert 3 < len(held) < len(every)
    assert strategy.candidates(3) == held[:3]


def test_an_unknown_latency_term_is_answered_with_the_likely_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'multiply'"):
        make_settings("proxyless", {"latency_term": "multiple"})
    with pytest.raises(UnknownName, match="Did you mean 'reinforce'"):
        make_settings("proxyless", {"arch_update": "reenforce"})
