"""What every search strategy promises, whoever wrote it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from small_search import Blobs, bounds_of, run_to_the_end, small_space, small_strategy
from torch import Tensor

from nasdeploy.errors import NothingWithinBounds, TrainingDiverged, UnknownName, UsageError
from nasdeploy.search.data import Split
from nasdeploy.search.space import check_arch
from nasdeploy.search.strategies import STRATEGIES, SupernetStrategy, make_settings
from nasdeploy.search.strategy import Strategy, Trial

SPACE = small_space()


@pytest.fixture(params=sorted(STRATEGIES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def saved(strategy: Strategy) -> dict[str, Any]:
    """The state as a checkpoint on the disk would give it back."""
    file = io.BytesIO()
    torch.save(strategy.state_dict(), file)
    file.seek(0)
    state: dict[str, Any] = torch.load(file, weights_only=True)
    return state


@dataclass(frozen=True)
class Undisturbed:
    """A search that ran to its end; `states` and `trials` are those after each number of steps."""

    strategy: SupernetStrategy
    states: list[dict[str, Any]]
    trials: list[list[Trial]]


@cache
def undisturbed(name: str) -> Undisturbed:
    strategy = small_strategy(name, seed=7)
    states, trials = [saved(strategy)], [list[Trial]()]
    while not strategy.finished:
        trials.append([*trials[-1], *strategy.step()])
        states.append(saved(strategy))
    return Undisturbed(strategy, states, trials)


def test_it_says_beforehand_how_many_steps_it_takes(name: str) -> None:
    run = undisturbed(name)
    assert small_strategy(name, seed=7).total_steps == len(run.states) - 1


def test_the_same_seed_gives_the_same_trials(name: str) -> None:
    once = undisturbed(name)
    assert run_to_the_end(small_strategy(name, seed=7)) == once.trials[-1]


def test_another_seed_gives_other_trials(name: str) -> None:
    assert run_to_the_end(small_strategy(name, seed=8)) != undisturbed(name).trials[-1]


@pytest.mark.parametrize("steps", [1, 3])
def test_stopping_and_resuming_changes_nothing(name: str, steps: int) -> None:
    once = undisturbed(name)
    resumed = small_strategy(name, seed=1)
    resumed.load_state_dict(once.states[steps])
    assert [*once.trials[steps], *run_to_the_end(resumed)] == once.trials[-1]
    assert resumed.progress == once.strategy.progress
    assert resumed.candidates(3) == once.strategy.candidates(3)
    mine, theirs = resumed.supernet_weights(), once.strategy.supernet_weights()
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_search_leaves_the_global_random_state_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    small_strategy(name).step()
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_architecture_lies_in_the_space(name: str) -> None:
    once = undisturbed(name)
    for trial in once.trials[-1]:
        check_arch(SPACE, trial.arch)
    for arch in once.strategy.candidates(5):
        check_arch(SPACE, arch)


def test_trials_count_from_zero_and_say_what_is_known(name: str) -> None:
    trials = undisturbed(name).trials[-1]
    assert [trial.number for trial in trials] == list(range(len(trials)))
    for trial in trials:
        assert trial.failure is None
        assert 0 <= trial.metrics["accuracy"] <= 1
        assert trial.metrics["latency_ms"] == pytest.approx(
            bounds_of(SPACE, None).estimator().calibrated.of(trial.arch)
        )


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_candidates_hold_the_bounds_before_and_after_the_search(name: str, share: float) -> None:
    strategy, bounds = small_strategy(name, share=share), bounds_of(SPACE, share)
    for state in undisturbed(name).states[::3]:
        strategy.load_state_dict(state)
        found = strategy.candidates(4)
        assert found
        assert np.all(bounds.admits(found))


def test_candidates_are_distinct_and_leave_out_what_is_excluded(name: str) -> None:
    strategy = undisturbed(name).strategy
    six = strategy.candidates(6)
    assert len(set(six)) == 6
    assert strategy.candidates(4, exclude=frozenset(six[:2])) == six[2:]


def test_a_bound_that_nothing_holds_ends_before_the_first_step(name: str) -> None:
    with pytest.raises(NothingWithinBounds):
        small_strategy(name, share=-0.5)


def test_a_trained_supernet_is_searched_again_within_another_bound(name: str) -> None:
    weights = undisturbed(name).strategy.supernet_weights()
    again = small_strategy(name, share=0.2, supernet_weights=weights)
    trials = run_to_the_end(again)
    assert all(trial.phase == "search" for trial in trials)
    assert np.all(bounds_of(SPACE, 0.2).admits(again.candidates(3)))


def test_a_search_on_a_trained_supernet_resumes_without_being_handed_it_again(name: str) -> None:
    weights = undisturbed(name).strategy.supernet_weights()
    first = small_strategy(name, supernet_weights=weights)
    before = first.step()
    resumed = small_strategy(name)
    resumed.load_state_dict(saved(first))
    assert before and run_to_the_end(resumed) == run_to_the_end(first)


def test_a_supernet_of_another_space_is_refused(name: str) -> None:
    weights = small_strategy(name, small_space(features=24)).supernet_weights()
    with pytest.raises(UsageError, match=r"of another space.*first body\.features"):
        small_strategy(name, supernet_weights=weights)


class Poisoned(Blobs):
    def batches(self, split: Split, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (x, y) in enumerate(super().batches(split, epoch)):
            yield (x * float("nan") if (split, epoch, number) == ("weights", 1, 2) else x), y


def test_a_loss_that_is_not_finite_names_epoch_and_step(name: str) -> None:
    with pytest.raises(TrainingDiverged, match=r"nan in epoch 1, step 2\. Lower weight_lr"):
        run_to_the_end(small_strategy(name, data=Poisoned()))


def test_settings_are_checked_when_they_are_made(name: str) -> None:
    with pytest.raises(UnknownName, match="Did you mean 'weight_lr'"):
        make_settings(name, {"weight_rl": 0.1})
    with pytest.raises(UsageError, match="weight_lr is -1"):
        make_settings(name, {"weight_lr": -1})
    with pytest.raises(UsageError, match=r"weight_lr .* is 'high'"):
        make_settings(name, {"weight_lr": "high"})


def test_a_misspelt_strategy_is_answered_with_the_likely_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'evolution'"):
        make_settings("evolutoin")
