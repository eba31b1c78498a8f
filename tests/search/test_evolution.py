from __future__ import annotations

from random import Random

import numpy as np
import pytest
from small_search import bounds_of, milliseconds, small_space

from nasdeploy.search.admissible import draw_within, nearest_within
from nasdeploy.search.goal import Goal
from nasdeploy.search.space import Arch, size_of
from nasdeploy.search.strategies.evolution import EvolutionSettings, RegularizedEvolution
from nasdeploy.search.strategies.proposer import SamplerSettings
from nasdeploy.search.strategies.random_search import RandomSearch
from nasdeploy.search.strategy import Sampler, Trial

SPACE = small_space(stages=((8, 3, 2), (16, 3, 2)))


def evolution(share: float, seed: int, **settings: int) -> RegularizedEvolution:
    usual = {"population_size": 20, "tournament_size": 5}
    return RegularizedEvolution(
        SPACE,
        bounds_of(SPACE, share),
        Goal("accuracy"),
        EvolutionSettings(**{**usual, **settings}),
        seed,
    )


def best_of(sampler: Sampler, accuracy: dict[tuple[int, int], float], trials: int) -> float:
    """The best after some trials on a made-up table: a sum over choices and their neighbours."""
    best = -np.inf
    for number in range(trials):
        for arch in sampler.ask(1):
            pairs = [(i, 10 * arch[i] + arch[i + 1]) for i in range(len(arch) - 1)]
            score = sum(accuracy[pair] for pair in pairs)
            best = max(best, score)
            sampler.tell([Trial(number, arch, {"accuracy": score})])
    return best


def test_evolution_finds_better_than_random_search_at_equal_cost() -> None:
    table = np.random.default_rng(0)
    accuracy = {(i, c): table.normal() for i in range(6) for c in range(100)}
    mine, baseline = [], []
    for seed in range(5):
        random = RandomSearch(
            SPACE, bounds_of(SPACE, 0.5), Goal("accuracy"), SamplerSettings(), seed
        )
        mine.append(best_of(evolution(0.5, seed), accuracy, 150))
        baseline.append(best_of(random, accuracy, 150))
    assert np.mean(mine) > np.mean(baseline) + np.std(baseline)


def test_the_oldest_dies_and_not_the_worst() -> None:
    sampler = evolution(1.0, 0, population_size=2, tournament_size=2)
    archs = sampler.ask(3)
    scores = [0.9, 0.1, 0.2]
    for number, (arch, score) in enumerate(zip(archs, scores, strict=True)):
        sampler.tell([Trial(number, arch, {"accuracy": score})])
    child = sampler.ask(1)[0]
    # the best of all is dead; its successor breeds
    assert sum(a != b for a, b in zip(child, archs[2], strict=True)) == 1


def test_a_failed_trial_never_breeds() -> None:
    sampler = evolution(1.0, 0, population_size=1, tournament_size=1)
    good, bad = sampler.ask(2)
    sampler.tell(
        [Trial(0, good, {"accuracy": 0.1}), Trial(1, bad, failure="a metric is not finite")]
    )
    child = sampler.ask(1)[0]
    assert sum(a != b for a, b in zip(child, good, strict=True)) == 1


@pytest.mark.parametrize("tries", [1, 64])
def test_a_tight_bound_is_held_and_a_space_is_exhausted_without_repeats(tries: int) -> None:
    small, share = small_space(stages=((8, 2, 2),)), 0.15
    bounds = bounds_of(small, share)
    settings = EvolutionSettings(population_size=4, tournament_size=2, tries=tries)
    samplers: list[Sampler] = [
        kind(small, bounds, Goal("accuracy"), settings, 0)
        for kind in (RandomSearch, RegularizedEvolution)
    ]
    every = np.array(list(np.ndindex(*[len(decision.choices) for decision in small.decisions])))
    within = {tuple(arch) for arch in every[bounds.admits(every)].tolist()}
    assert 0 < len(within) < size_of(small)
    for sampler in samplers:
        met: list[Arch] = []
        while archs := sampler.ask(4):
            met += archs
            sampler.tell([Trial(0, arch, {"accuracy": float(sum(arch))}) for arch in archs])
        assert len(met) == len(set(met))
        assert set(met) == within


def test_draws_that_never_hold_the_bound_end_and_the_exact_way_finds_one() -> None:
    bounds = bounds_of(SPACE, 0.0)
    slowest = milliseconds(SPACE).range().highest
    assert draw_within(lambda: slowest, bounds, tries=10, exclude=()) is None
    found = nearest_within(SPACE, bounds, Random(0), exclude=())
    assert found == milliseconds(SPACE).range().lowest


def test_the_nearest_admissible_architecture_shares_as_many_choices_as_it_can() -> None:
    bounds = bounds_of(SPACE, 0.5)
    slowest = milliseconds(SPACE).range().highest
    found = nearest_within(SPACE, bounds, Random(0), exclude=(), towards=slowest)
    assert found is not None
    shared = sum(a == b for a, b in zip(found, slowest, strict=True))
    every = np.array(list(np.ndindex(*[len(decision.choices) for decision in SPACE.decisions])))
    admitted = every[bounds.admits(every)]
    assert shared == (admitted == np.array(slowest)).sum(axis=1).max()
