"""The controller of ENAS and its gradient, against enumeration."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from small_search import bounds_of, milliseconds, run_to_the_end, small_space, small_strategy
from small_spaces import small
from torch import Tensor

from nasdeploy.errors import UsageError
from nasdeploy.search.controller import Controller, slots_of
from nasdeploy.search.latency_term import LatencyTerm
from nasdeploy.search.reinforce import Drawn, MovingBaseline, PathRewards, policy_loss
from nasdeploy.search.space import Arch, Decision
from nasdeploy.search.strategies import make_settings
from nasdeploy.search.strategies.enas import Enas
from nasdeploy.search.supernet import SinglePath
from nasdeploy.search.task import Classification

# two blocks that choose inputs and operators, as enas-micro's cells do: 2 * 2 * 3 * 3 architectures
MICRO = (
    Decision("normal.block0.left.input", ("0", "1")),
    Decision("normal.block0.left.operator", ("a", "b")),
    Decision("normal.block1.left.input", ("0", "1", "2")),
    Decision("normal.block1.right.input", ("0", "1", "2")),
)
# three layers with skips, as enas-macro's: 2^6 architectures
MACRO = tuple(
    decision
    for layer in range(3)
    for decision in (
        Decision(f"layer{layer}.operator", ("a", "b")),
        *(Decision(f"layer{layer}.skip{early}", ("no", "yes")) for early in range(layer)),
    )
)
CHAIN = tuple(Decision(f"block{n}", ("a", "b", "c")) for n in range(3))
KINDS = {"micro": MICRO, "macro": MACRO, "chain": CHAIN}


@pytest.fixture(params=sorted(KINDS))
def decisions(request: pytest.FixtureRequest) -> tuple[Decision, ...]:
    return KINDS[str(request.param)]


def controller_of(decisions: tuple[Decision, ...], *, spread: float = 3.0) -> Controller:
    """Larger weights than at the beginning, so that probabilities differ."""
    torch.manual_seed(3)
    controller = Controller(decisions, hidden=8).double()
    with torch.no_grad():
        for parameter in controller.parameters():
            parameter.uniform_(-spread, spread)
    return controller


def every(decisions: tuple[Decision, ...]) -> list[Arch]:
    return list(product(*(range(len(decision.choices)) for decision in decisions)))


def gradient_of(value: Tensor, controller: Controller) -> Tensor:
    parts = torch.autograd.grad(value, list(controller.parameters()), allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


def test_the_probabilities_of_all_architectures_sum_to_one(
    decisions: tuple[Decision, ...],
) -> None:
    drawn = controller_of(decisions).log_prob(every(decisions))
    assert float(drawn.log_probs.exp().sum().detach()) == pytest.approx(1, rel=1e-12)
    assert float(drawn.log_probs.detach().std()) > 0.1


def test_the_mean_entropy_is_that_of_the_distribution(decisions: tuple[Decision, ...]) -> None:
    drawn = controller_of(decisions).log_prob(every(decisions))
    p = drawn.log_probs.exp()
    assert float((p * drawn.entropies).sum().detach()) == pytest.approx(
        float(-(p * drawn.log_probs).sum().detach()), rel=1e-12
    )


def test_what_drawing_recorded_is_what_the_architecture_is_worth(
    decisions: tuple[Decision, ...],
) -> None:
    controller = controller_of(decisions)
    drawn = controller.sample(64, torch.Generator().manual_seed(0))
    again = controller.log_prob(drawn.archs)
    assert torch.allclose(drawn.log_probs, again.log_probs, rtol=1e-12)
    assert torch.allclose(drawn.entropies, again.entropies, rtol=1e-12)
    one = controller.log_prob([tuple(drawn.archs[7].tolist())])
    assert torch.allclose(one.log_probs[0], drawn.log_probs[7], rtol=1e-12)


def test_architectures_are_drawn_as_often_as_their_probabilities_say(
    decisions: tuple[Decision, ...],
) -> None:
    controller, archs = controller_of(decisions), every(decisions)
    p = controller.log_prob(archs).log_probs.exp().detach().numpy()
    drawn = controller.sample(20_000, torch.Generator().manual_seed(1)).archs.tolist()
    counted = np.array([drawn.count(list(arch)) for arch in archs]) / len(drawn)
    # five standard deviations
    assert np.all(np.abs(counted - p) < 5 * np.sqrt(p * (1 - p) / len(drawn)) + 1e-9)


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_mean_estimate_is_the_gradient_of_the_mean_reward_and_entropy(
    decisions: tuple[Decision, ...], weight: float
) -> None:
    """Over all architectures: sum of p * estimate = d/dtheta (sum of p * reward + w * entropy)."""
    controller, archs = controller_of(decisions), every(decisions)
    rewards = torch.randn(
        len(archs), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    everything = controller.log_prob(archs)
    p = everything.log_probs.exp()
    exact = (p * rewards).sum() - weight * (p * everything.log_probs).sum()
    expected = gradient_of(exact, controller)

    baseline = 0.7
    mean = torch.zeros_like(expected)
    for arch, reward, chance in zip(archs, rewards.tolist(), p.tolist(), strict=True):
        drawn: Drawn = controller.log_prob([arch])
        loss = policy_loss(drawn.log_probs, [reward - baseline], drawn.entropies, weight)
        mean -= chance * gradient_of(loss, controller)
    assert torch.allclose(mean, expected, rtol=1e-9, atol=1e-12)
    assert float(expected.norm()) > 0.01


def test_a_batch_is_held_against_those_before_it() -> None:
    baseline = MovingBaseline(0.5)
    assert baseline.advantages([1.0, 3.0]) == [-1.0, 1.0]  # the first one against its own mean
    assert baseline.value == 2.25  # 2, then 1.5, then 2.25
    assert baseline.advantages([4.25]) == [2.0]
    assert baseline.value == 3.25


def test_the_papers_decisions_are_made_as_the_paper_makes_them() -> None:
    """Section 2.4: inputs by attention, operators by one softmax that all blocks of a kind share;
    section 2.3: skips by attention over the earlier layers."""
    micro = slots_of(small("enas-micro").decisions)
    kinds = [slot.kind for slot in micro[:4]]
    assert kinds == ["input", "input", "choice", "choice"]
    assert {slot.group for slot in micro if slot.kind == "choice"} == {0}
    assert {slot.scope for slot in micro} == {"normal", "reduction"}
    macro = small("enas-macro")
    skips = [slot for slot in slots_of(macro.decisions) if slot.kind == "skip"]
    assert [slot.source for slot in skips[:6]] == [0, 0, 1, 0, 1, 2]
    assert sum(slot.ends_block for slot in slots_of(macro.decisions)) == 6
    assert {slot.kind for slot in slots_of(small_space().decisions)} == {"choice"}


def test_squashed_logits_keep_every_probability_above_zero() -> None:
    """tanh_constant c bounds each logit: no choice of k has less than 1 / (1 + (k - 1) e^2c)."""
    controller = controller_of(CHAIN, spread=100.0)
    least = min(controller.log_prob(every(CHAIN)).log_probs.exp().tolist())
    assert least > (1 / (1 + 2 * math.exp(5))) ** 3 * (1 - 1e-9)


def test_a_reward_is_the_accuracy_of_that_path_less_what_the_bound_takes_off() -> None:
    space = small_space()
    supernet = space.supernet(SinglePath((0,) * len(space.decisions)), task=Classification())
    arch = milliseconds(space).range().highest
    x = torch.randn(32, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    supernet.train()
    network = supernet.extract(arch)
    task = Classification()
    with torch.no_grad():
        y = network(x).argmax(1)  # so that this path is always right
    bounds = bounds_of(space, 0.5)
    reward = PathRewards(supernet, task, LatencyTerm("excess", 3.0, bounds))
    assert bounds.latency_ms is not None
    above = milliseconds(space).of(arch) / bounds.latency_ms - 1
    assert reward(arch, x, y) == pytest.approx(1 - 3.0 * above)
    lowest = milliseconds(space).range().lowest
    with torch.no_grad():
        right = task.metrics(supernet.extract(lowest)(x), y)["accuracy"]
    assert reward(lowest, x, y) == pytest.approx(right)


def test_an_overwhelming_weight_on_latency_draws_the_fastest_networks() -> None:
    strategy = small_strategy(
        "enas",
        share=1.0,
        latency_term="add",
        latency_weight=30.0,
        controller_lr=0.05,
        archs_per_update=1,
        search_epochs=12,
        valid_batches=1,
    )
    assert isinstance(strategy, Enas)
    cost = milliseconds(strategy.space)

    def mean_ms() -> float:
        drawn = strategy.controller.sample(200, torch.Generator().manual_seed(0))
        return float(cost(drawn.archs.numpy()).mean())

    before = mean_ms()
    run_to_the_end(strategy)
    low = cost.range().low
    assert mean_ms() - low < 0.6 * (before - low)


@pytest.mark.parametrize("space", ["enas-micro", "enas-macro"])
def test_the_papers_spaces_are_searched_and_what_is_found_was_scored_at_the_end(space: str) -> None:
    strategy = small_strategy(
        "enas",
        small(space, input_shape=(1, 12, 12), classes=4),
        warmup_epochs=0,
        search_epochs=2,
        share=0.5,
        valid_batches=1,
    )
    trials = run_to_the_end(strategy)
    final = trials[-6:]
    assert strategy.candidates(1) == [max(final, key=lambda trial: trial.metrics["accuracy"]).arch]
    assert {trial.phase for trial in trials} == {"search"}


def test_settings_that_make_no_search_are_refused() -> None:
    with pytest.raises(UsageError, match="archs_per_update is 0"):
        make_settings("enas", {"archs_per_update": 0})
    with pytest.raises(UsageError, match="temperature is -1"):
        make_settings("enas", {"temperature": -1.0})
    with pytest.raises(UsageError, match=r"baseline_decay is 1\.0"):
        make_settings("enas", {"baseline_decay": 1.0})
