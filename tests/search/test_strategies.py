"""What every search strategy promises, whoever wrote it."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from small_search import (
    QUICK,
    VARIANTS,
    Blobs,
    bounds_of,
    milliseconds,
    run_to_the_end,
    shorter,
    small_space,
    small_strategy,
    space_for,
)
from torch import Tensor

from nasdeploy.errors import NothingWithinBounds, TrainingDiverged, UnknownName, UsageError
from nasdeploy.search.data import Split
from nasdeploy.search.goal import Goal, Preference
from nasdeploy.search.proposing import Proposing
from nasdeploy.search.space import SearchSpace, check_arch
from nasdeploy.search.strategies import STRATEGIES, WeightSharing, make_settings
from nasdeploy.search.strategy import Request, Strategy, Trial

SPACE = small_space()
STOPS = (1, 3)
"""After how many steps a search is stopped and resumed."""


# optuna's samplers go through one adapter, which optuna-nsga2 stands for in the fast tests
DEAR = ("optuna-cmaes", "optuna-gp", "optuna-tpe")


@pytest.fixture(
    params=[
        pytest.param(name, marks=[pytest.mark.slow] if name in DEAR else [])
        for name in sorted([*STRATEGIES, *VARIANTS])
    ]
)
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
    """A search that ran to its end.

    `trials` are those after each number of steps, and `states` the states after some of them: 0,
    those of `STOPS`, and all.
    """

    strategy: WeightSharing
    states: dict[int, dict[str, Any]]
    trials: list[list[Trial]]


@cache
def undisturbed(name: str) -> Undisturbed:
    strategy = small_strategy(name, seed=7)
    states, trials = {0: saved(strategy)}, [list[Trial]()]
    while not strategy.finished:
        trials.append([*trials[-1], *strategy.step()])
        if strategy.finished or len(trials) - 1 in STOPS:
            states[len(trials) - 1] = saved(strategy)
    return Undisturbed(strategy, states, trials)


def test_it_says_beforehand_how_many_steps_it_takes(name: str) -> None:
    run = undisturbed(name)
    assert small_strategy(name, seed=7).total_steps == len(run.trials) - 1


def test_the_same_seed_gives_the_same_trials(name: str) -> None:
    once = undisturbed(name)
    assert run_to_the_end(small_strategy(name, seed=7)) == once.trials[-1]


def test_another_seed_gives_other_trials(name: str) -> None:
    assert run_to_the_end(small_strategy(name, seed=8)) != undisturbed(name).trials[-1]


@pytest.mark.parametrize("steps", STOPS)
def test_stopping_and_resuming_changes_nothing(name: str, steps: int) -> None:
    once = undisturbed(name)
    resumed = small_strategy(name, seed=1)
    resumed.load_state_dict(once.states[steps])
    assert [*once.trials[steps], *run_to_the_end(resumed)] == once.trials[-1]
    assert resumed.progress == once.strategy.progress
    assert resumed.candidates(3) == once.strategy.candidates(3)
    mine, theirs = resumed.supernet_weights(), once.strategy.supernet_weights()
    assert mine is not None and theirs is not None
    assert all(torch.equal(mine[key], theirs[key]) for key in theirs)


def test_a_search_leaves_the_global_random_state_alone(name: str) -> None:
    before = torch.random.get_rng_state()
    small_strategy(name).step()
    assert torch.equal(before, torch.random.get_rng_state())


def test_every_architecture_lies_in_the_space(name: str) -> None:
    once = undisturbed(name)
    for trial in once.trials[-1]:
        check_arch(space_for(name), trial.arch)
    for arch in once.strategy.candidates(5):
        check_arch(space_for(name), arch)


def test_trials_count_from_zero_and_say_what_is_known(name: str) -> None:
    trials = undisturbed(name).trials[-1]
    assert [trial.number for trial in trials] == list(range(len(trials)))
    for trial in trials:
        assert trial.failure is None
        assert 0 <= trial.metrics["accuracy"] <= 1
        assert trial.metrics["latency_ms"] == pytest.approx(
            bounds_of(space_for(name), None).estimator().calibrated.of(trial.arch)
        )


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_candidates_hold_the_bounds_before_and_after_the_search(name: str, share: float) -> None:
    strategy, bounds = small_strategy(name, share=share), bounds_of(space_for(name), share)
    for state in undisturbed(name).states.values():
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
    again = small_strategy(name, share=0.2, supernet_weights=weights, **shorter(name))
    trials = run_to_the_end(again)
    assert all(trial.phase == "search" for trial in trials)
    assert np.all(bounds_of(space_for(name), 0.2).admits(again.candidates(3)))


def test_a_search_on_a_trained_supernet_resumes_without_being_handed_it_again(name: str) -> None:
    weights = undisturbed(name).strategy.supernet_weights()
    first = small_strategy(name, supernet_weights=weights, **shorter(name))
    before = first.step()
    resumed = small_strategy(name, **shorter(name))
    resumed.load_state_dict(saved(first))
    assert before and run_to_the_end(resumed) == run_to_the_end(first)


def test_a_supernet_of_another_space_is_refused(name: str) -> None:
    weights = small_strategy(name, space_for(name, other=True)).supernet_weights()
    assert weights is not None
    with pytest.raises(UsageError, match=r"of another space.*first body\."):
        small_strategy(name, supernet_weights=weights)


class Poisoned(Blobs):
    def batches(self, split: Split, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        for number, (x, y) in enumerate(super().batches(split, epoch)):
            yield (x * float("nan") if (split, epoch, number) == ("weights", 1, 1) else x), y


def test_a_loss_that_is_not_finite_names_epoch_and_step(name: str) -> None:
    with pytest.raises(TrainingDiverged, match=r"nan in epoch 1, step 1\. Lower weight_lr"):
        run_to_the_end(small_strategy(name, data=Poisoned()))


def test_settings_are_checked_when_they_are_made(name: str) -> None:
    name, _ = VARIANTS.get(name, (name, {}))
    with pytest.raises(UnknownName, match="Did you mean 'weight_lr'"):
        make_settings(name, {"weight_rl": 0.1})
    with pytest.raises(UsageError, match="weight_lr is -1"):
        make_settings(name, {"weight_lr": -1})
    with pytest.raises(UsageError, match=r"weight_lr .* is 'high'"):
        make_settings(name, {"weight_lr": "high"})


def test_a_misspelt_strategy_is_answered_with_the_likely_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'evolution'"):
        make_settings("evolutoin")


def of_numbers(space: SearchSpace) -> Callable[[Request], Mapping[str, float] | str]:
    """Made-up accuracies of a space, and every fifth evaluation goes wrong."""
    table, losses = np.random.default_rng(3).random((2, len(space.decisions), 9))

    def score(request: Request) -> Mapping[str, float] | str:
        if request.number % 5 == 3:
            return "the process was killed"
        if request.number % 5 == 4:
            return {"accuracy": float("nan")}
        chosen = list(enumerate(request.arch))
        return {
            "accuracy": float(np.mean([table[at] for at in chosen])),
            "loss": float(np.mean([losses[at] for at in chosen])),
        }

    return score


class Backwards:
    """An evaluator that answers in the opposite order."""

    def __init__(self, space: SearchSpace) -> None:
        self.score = of_numbers(space)

    def __call__(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[int, Mapping[str, float] | str]]:
        for request in reversed(requests):
            yield request.number, self.score(request)


class Forwards(Backwards):
    def __call__(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[int, Mapping[str, float] | str]]:
        for request in requests:
            yield request.number, self.score(request)


DEAREST = ("optuna-gp", "optuna-tpe")  # they would take minutes for all trials
PROPOSING = sorted(name for name, entry in STRATEGIES.items() if entry.sampler is not None)
FORMS: dict[str, dict[str, Any]] = {
    "metric": {},
    "loss": {},
    "product": {"targets": {"latency_ms": 0.1}},
    "additive": {"targets": {"latency_ms": 0.1}, "weights": {"latency_ms": 0.5}},
    "weights": {"weights": {"latency_ms": 0.2, "accuracy": 2.0}},
    "pareto": {},
    "preferred": {"preference": Preference({"latency_ms": (0.05, 0.1)})},
}


def proposing(
    name: str,
    form: str = "metric",
    *,
    share: float | None = 0.4,
    seed: int = 5,
    space: SearchSpace = SPACE,
    evaluator: type[Backwards] = Forwards,
    **changes: Any,
) -> Proposing:
    bounds = bounds_of(space, share)
    kind: Any = "pareto" if form == "preferred" else form
    costs = {} if form in ("metric", "loss") else {"latency_ms": milliseconds(space)}
    goal = Goal("accuracy", kind, costs, **FORMS[form])
    quick = {key: value for key, value in QUICK[name].items() if key != "supernet_epochs"}
    settings = make_settings(name, {**quick, "trials": 20, **changes}, evaluator="published").own
    kind_of = STRATEGIES[name].sampler
    assert kind_of is not None
    sampler = kind_of(space, bounds, goal, settings, seed)
    return Proposing(
        space, sampler, evaluator(space), bounds=bounds, goal=goal, seed=seed, settings=settings
    )


@pytest.mark.parametrize(
    ("name", "form"),
    [
        pytest.param(name, form, marks=[pytest.mark.slow] if name in DEAR else [])
        for name in PROPOSING
        for form in sorted(FORMS)
        if name != "optuna-gp"
    ],
)
def test_every_goal_is_searched_and_resumed_bit_by_bit(name: str, form: str) -> None:
    strategy, resumed = proposing(name, form), proposing(name, form)
    trials: list[Trial] = []
    while not strategy.finished:
        trials += strategy.step()
        if len(trials) == 9:
            state = saved(strategy)
    resumed.load_state_dict(state)
    assert [*trials[:9], *run_to_the_end(resumed)] == trials
    assert len({trial.arch for trial in trials}) == len(trials) == 20
    bounds = bounds_of(SPACE, 0.4)
    assert np.all(bounds.admits([trial.arch for trial in trials]))
    assert np.all(bounds.admits(strategy.candidates(4)))


def test_of_a_search_for_the_loss_the_lowest_is_the_best() -> None:
    strategy = proposing("evolution", "loss")
    known = [trial for trial in run_to_the_end(strategy) if trial.failure is None]
    by_loss = sorted(known, key=lambda trial: trial.metrics["loss"])
    assert strategy.candidates(3) == [trial.arch for trial in by_loss[:3]]
    assert strategy.progress.endswith(f"best loss {by_loss[0].metrics['loss']:.3f}")
    assert max(known, key=lambda trial: trial.metrics["accuracy"]) != by_loss[0]


def test_a_search_for_the_loss_needs_an_evaluator_that_tells_it() -> None:
    class Silent(Forwards):
        def __call__(
            self, requests: Sequence[Request]
        ) -> Iterator[tuple[int, Mapping[str, float] | str]]:
            for request in requests:
                yield request.number, {"accuracy": 0.5}

    trials = run_to_the_end(proposing("evolution", "loss", evaluator=Silent))
    assert all("a metric is missing" in str(trial.failure) for trial in trials)


@pytest.mark.parametrize("name", [name for name in PROPOSING if name != "optuna-gp"])
def test_a_failed_evaluation_is_recorded_and_the_search_goes_on(name: str) -> None:
    strategy = proposing(name)
    trials = run_to_the_end(strategy)
    failed = [trial for trial in trials if trial.failure is not None]
    assert [trial.number for trial in failed] == [n for n in range(20) if n % 5 in (3, 4)]
    assert all(not trial.metrics for trial in failed)
    assert "process was killed" in str(failed[0].failure) and "nan" in str(failed[1].failure)
    assert strategy.candidates(1)[0] not in {trial.arch for trial in failed}


@pytest.mark.parametrize("name", [name for name in PROPOSING if name not in DEAREST])
def test_the_order_of_answers_changes_nothing(name: str) -> None:
    forwards, backwards = proposing(name), proposing(name, evaluator=Backwards)
    assert run_to_the_end(forwards) == run_to_the_end(backwards)


@pytest.mark.parametrize("name", [name for name in PROPOSING if name not in DEAREST])
def test_a_space_is_exhausted_without_repeats(name: str) -> None:
    space = small_space(stages=((8, 2, 2),))
    strategy = proposing(name, share=0.1, space=space, trials=100, tries=8)
    trials = run_to_the_end(strategy)
    every = np.array(list(np.ndindex(*[len(decision.choices) for decision in space.decisions])))
    within = {tuple(arch) for arch in every[bounds_of(space, 0.1).admits(every)].tolist()}
    assert 0 < len(within) < 30
    assert len(trials) == len(within) and {trial.arch for trial in trials} == within


def test_a_goal_without_what_it_needs_is_refused() -> None:
    with pytest.raises(UsageError, match="weighs accuracy against a cost"):
        Goal("accuracy", "pareto")
    with pytest.raises(UsageError, match="needs a target of latency_ms"):
        Goal("accuracy", "product", {"latency_ms": milliseconds(SPACE)})
    with pytest.raises(UsageError, match="watts is no objective"):
        Goal("accuracy", "weights", {"latency_ms": milliseconds(SPACE)}, weights={"watts": 1.0})
