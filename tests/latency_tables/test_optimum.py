from __future__ import annotations

import itertools
import math
import time
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mobile_terms import Mobile

from nasdeploy.errors import NothingWithinBounds
from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.latency_tables.elimination import Arch, FloatArray
from nasdeploy.latency_tables.optimum import (
    Limit,
    best_within,
    check_limits,
    highest_within,
    lowest_within,
)
from nasdeploy.latency_tables.table import find_table, read_table


def separable(tables: list[FloatArray], constant: float = 0.0) -> CompiledCost:
    terms = [((n,), np.asarray(table, np.float64)) for n, table in enumerate(tables)]
    return CompiledCost.of_tables(
        [*terms, ((), np.array(constant))], [len(table) for table in tables]
    )


@st.composite
def problems(draw: st.DrawFn) -> tuple[CompiledCost, list[Limit]]:
    """An objective and up to three limits over at most 81 architectures, many of them ties."""
    choices = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    number = draw(st.sampled_from([st.integers(0, 3).map(float), st.floats(0, 1, width=32)]))

    def cost(looks_at_most: int, reduce: str = "sum") -> CompiledCost:
        looks = [(n,) for n in range(len(choices))] + draw(
            st.lists(
                st.lists(st.integers(0, len(choices) - 1), unique=True, max_size=looks_at_most).map(
                    tuple
                ),
                max_size=2,
            )
        )
        tables = []
        for decisions in looks:
            shape = [choices[d] for d in decisions]
            cells = draw(st.lists(number, min_size=math.prod(shape), max_size=math.prod(shape)))
            tables.append((decisions, np.array(cells, np.float64).reshape(shape)))
        return CompiledCost.of_tables(tables, choices, reduce="max" if reduce == "max" else "sum")

    limits = []
    for number_of_limit in range(draw(st.integers(0, 3))):
        limited = cost(3, draw(st.sampled_from(["sum", "sum", "max"])))
        reach = limited.range()
        at_most = reach.low + draw(st.floats(-0.1, 1)) * (reach.high - reach.low)
        limits.append(Limit(f"cost{number_of_limit}", limited, at_most))
    return cost(2), limits


def within(choices: tuple[int, ...], limits: list[Limit]) -> list[Arch]:
    archs = itertools.product(*map(range, choices))
    return [a for a in archs if all(limit.cost.of(a) <= limit.at_most for limit in limits)]


@settings(max_examples=100, deadline=None)
@given(problems(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_the_best_are_those_that_trying_all_finds(
    problem: tuple[CompiledCost, list[Limit]], n: int, rng: Random
) -> None:
    objective, limits = problem
    possible = within(objective.choices, limits)
    exclude = frozenset(rng.sample(possible, min(len(possible), rng.randrange(4))))
    left = [arch for arch in possible if arch not in exclude]
    expected = sorted(left, key=lambda arch: (-objective.of(arch), arch))[:n]
    assert highest_within(objective, limits, n=n, exclude=exclude) == expected


@settings(max_examples=50, deadline=None)
@given(problems(), st.booleans())
def test_the_lowest_is_the_one_that_trying_all_finds(
    problem: tuple[CompiledCost, list[Limit]], largest: bool
) -> None:
    cost, limits = problem
    if largest:
        cost = CompiledCost.of_tables(cost.terms, cost.choices, reduce="max")
    possible = within(cost.choices, limits)
    found = lowest_within(cost, limits)
    if not possible:
        assert found is None
    else:
        assert found is not None
        assert found[0] == cost.of(found[1]) == min(map(cost.of, possible))
        assert found[1] in possible


@settings(max_examples=50, deadline=None)
@given(problems())
def test_limits_are_refused_exactly_when_nothing_is_within_them(
    problem: tuple[CompiledCost, list[Limit]],
) -> None:
    cost, limits = problem
    if within(cost.choices, limits):
        check_limits(limits)
    else:
        with pytest.raises(NothingWithinBounds):
            check_limits(limits)


def test_scores_and_limits_of_22_decisions_have_the_optimum_of_an_integer_program() -> None:
    from scipy.optimize import LinearConstraint, milp
    from scipy.sparse import block_diag

    rng = np.random.default_rng(5)
    scores = [rng.standard_normal(7) for _ in range(22)]
    costs = [separable([rng.random(7) for _ in range(22)], 0.5) for _ in range(3)]
    limits = []
    for number, cost in enumerate(costs):
        reach = cost.range()
        limits.append(Limit(f"cost{number}", cost, reach.low + 0.35 * (reach.high - reach.low)))
    one_each = LinearConstraint(block_diag([np.ones((1, 7))] * 22).toarray(), 1, 1)
    for held in (limits[:1], limits):
        spent = np.stack([np.concatenate([t for d, t in limit.cost.terms if d]) for limit in held])
        room = [limit.at_most - limit.cost.constant for limit in held]
        reference = milp(
            -np.concatenate(scores),
            constraints=[one_each, LinearConstraint(spent, -np.inf, room)],
            integrality=np.ones(22 * 7, np.int64),
            options={"mip_rel_gap": 0.0},
        )
        (best,) = best_within(scores, held)
        assert all(limit.cost.of(best) <= limit.at_most for limit in held)
        assert reference.fun is not None
        assert separable(scores).of(best) == pytest.approx(-reference.fun, abs=1e-6)


def test_equal_scores_are_answered_at_once_with_the_smallest_tuples(mobile: Mobile) -> None:
    values = read_table(find_table("pixel1")).values("mean")
    latency = CompiledCost.compile(mobile.terms, values, mobile.choices)
    scores = [np.zeros(choices) for choices in mobile.choices]
    limits = [Limit("latency_ms", latency, 60.0)]
    started = time.process_time()
    first, second = best_within(scores, limits, n=2)
    assert time.process_time() - started < 5
    assert first < second
    assert best_within(scores, limits, exclude={first}) == [second]
    assert latency.of(first) <= 60


def test_the_best_eight_within_four_limits_take_a_few_seconds(mobile: Mobile) -> None:
    rng = np.random.default_rng(2)
    scores = [rng.standard_normal(choices) for choices in mobile.choices]
    limits = []
    for number in range(4):
        cost = separable([rng.random(choices) for choices in mobile.choices])
        reach = cost.range()
        limits.append(Limit(f"cost{number}", cost, reach.low + 0.4 * (reach.high - reach.low)))
    started = time.process_time()
    best = best_within(scores, limits, n=8)
    assert time.process_time() - started < 10
    ranked = separable(scores)([*best])
    assert len(set(best)) == 8
    assert (np.diff(ranked) <= 0).all()


LATENCY = separable([np.array([1.0, 2, 3]), np.array([1.0, 2, 3])])
PARAMS = separable([np.array([3e6, 2e6, 1e6]), np.array([3e6, 2e6, 1.2345e6])])
MEMORY = CompiledCost.of_tables(PARAMS.terms, PARAMS.choices, reduce="max")

MESSAGES = {
    "latency at most 1.5 ms: it reaches from 2 ms to 6 ms": [Limit("latency_ms", LATENCY, 1.5)],
    "latency at most 3 ms and params at most 3M exclude each other: with params at most 3M, "
    "latency is at least 5 ms; with latency at most 3 ms, params is at least 5M": [
        Limit("latency_ms", LATENCY, 3),
        Limit("params", PARAMS, 3e6),
    ],
    # 2,234,500 is shown as a number that can be reached.
    "params at most 2.2M: it reaches from 2.24M to 6M": [Limit("params", PARAMS, 2.2e6)],
    "latency at most 5 ms and memory at most 1.5 MB exclude each other": [
        Limit("params", PARAMS, 9e6),
        Limit("latency_ms", LATENCY, 5),
        Limit("memory_bytes", MEMORY, 1.5e6),
    ],
}


@pytest.mark.parametrize("message", MESSAGES)
def test_a_bound_that_cannot_be_held_says_what_can_be(message: str) -> None:
    with pytest.raises(NothingWithinBounds) as raised:
        check_limits(MESSAGES[message])
    assert message in str(raised.value)


def test_bounds_that_only_three_together_cannot_hold_are_named_together() -> None:
    costs = [separable([np.eye(3)[n], np.eye(3)[n]]) for n in range(3)]
    limits = [Limit(name, cost, 0.0) for name, cost in zip("abc", costs, strict=True)]
    check_limits(limits[:2])
    with pytest.raises(NothingWithinBounds, match=r"a at most 0 and b at most 0 and c at most 0"):
        check_limits(limits)


def test_without_limits_each_decision_takes_its_best() -> None:
    check_limits([])
    scores = [np.array([0.0, 2.0, 1.0]), np.array([5.0, 1.0])]
    assert best_within(scores, [], n=3) == [(1, 0), (2, 0), (0, 0)]
    assert len(best_within(scores, [], n=99)) == 6


def test_a_limit_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        Limit("latency_ms", LATENCY, math.nan)
