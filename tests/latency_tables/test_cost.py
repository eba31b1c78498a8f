from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mobile_terms import PROXYLESS_MOBILE, PROXYLESS_MOBILE_MS, Mobile

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.cost import CompiledCost, CostTerm
from nasdeploy.latency_tables.elimination import Arch, Reduce, Trellis
from nasdeploy.latency_tables.table import find_table, read_table

REDUCES: tuple[Reduce, ...] = ("sum", "max")
VALUES = {"a": 1.0, "b": 2.5, "c": 0.125}
STEM = CostTerm((), (), (("a",),))
BLOCK = CostTerm((0,), (3,), (("b",), (), ("c", "a")))


@st.composite
def costs(draw: st.DrawFn, reduce: Reduce) -> CompiledCost:
    """Up to 81 architectures; terms over none to three decisions, whole or broken numbers."""
    choices = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    number = draw(st.sampled_from([st.integers(-3, 3).map(float), st.floats(-1e6, 1e6)]))
    tables = []
    for _ in range(draw(st.integers(0, 6))):
        decisions = tuple(draw(st.lists(st.integers(0, len(choices) - 1), unique=True, max_size=3)))
        shape = [choices[d] for d in decisions]
        size = math.prod(shape)
        cells = draw(st.lists(number, min_size=size, max_size=size))
        tables.append((decisions, np.array(cells, np.float64).reshape(shape)))
    return CompiledCost.of_tables(tables, choices, reduce=reduce)


def every(cost: CompiledCost) -> list[Arch]:
    return list(itertools.product(*map(range, cost.choices)))


def one_by_one(cost: CompiledCost, arch: Arch) -> float:
    parts = [float(table[tuple(arch[d] for d in decisions)]) for decisions, table in cost.terms]
    return math.fsum(parts) if cost.reduce == "sum" else max(parts)


def test_a_network_costs_what_its_choices_and_the_stem_cost() -> None:
    cost = CompiledCost.compile([STEM, BLOCK], VALUES, [3])
    assert cost([(0,), (1,), (2,)]).tolist() == [3.5, 1.0, 2.125]
    assert cost.constant == 1.0


def test_a_maximum_is_the_largest_operator_however_often_it_occurs() -> None:
    often = CostTerm((1,), (2,), (("c",), ("a",)), multiplicity=9)
    cost = CompiledCost.compile([BLOCK, often], VALUES, [3, 2], reduce="max")
    assert cost([(0, 0), (1, 0), (2, 0), (1, 1)]).tolist() == [2.5, 0.125, 1.0, 1.0]


def test_an_operator_that_occurs_twice_costs_twice() -> None:
    twice = CostTerm((0,), (3,), BLOCK.op_keys, multiplicity=2)
    assert CompiledCost.compile([twice], VALUES, [3]).of((0,)) == 5.0


def test_terms_over_the_same_decisions_become_one() -> None:
    tables = [((0, 1), np.arange(6.0).reshape(2, 3)), ((1, 0), np.ones((3, 2)))]
    cost = CompiledCost.of_tables(tables, [2, 3])
    assert [decisions for decisions, _ in cost.terms] == [(), (0, 1)]
    assert cost.of((1, 2)) == 6.0


@pytest.mark.parametrize("reduce", REDUCES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_population_costs_what_its_rows_cost_one_by_one(
    reduce: Reduce, data: st.DataObject
) -> None:
    cost = data.draw(costs(reduce))
    expected = [one_by_one(cost, arch) for arch in every(cost)]
    assert cost(every(cost)).tolist() == expected
    assert [cost.of(arch) for arch in every(cost)] == expected


@pytest.mark.parametrize("reduce", REDUCES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_the_range_is_that_of_all_architectures(reduce: Reduce, data: st.DataObject) -> None:
    cost = data.draw(costs(reduce))
    all_costs = cost(every(cost))
    reach = cost.range()
    assert (reach.low, reach.high) == (all_costs.min(), all_costs.max())
    assert (cost.of(reach.lowest), cost.of(reach.highest)) == (reach.low, reach.high)


@pytest.mark.parametrize("reduce", REDUCES)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_scaling_the_cost_scales_every_architecture(reduce: Reduce, data: st.DataObject) -> None:
    cost = data.draw(costs(reduce))
    scaled = cost.affine(1.25, -0.5)
    largest = np.abs(cost(every(cost))).max() + 1e6
    np.testing.assert_allclose(
        scaled(every(cost)), 1.25 * cost(every(cost)) - 0.5, rtol=0, atol=1e-12 * largest
    )


def test_whole_numbers_stay_whole() -> None:
    tables = [((n,), np.array([3.0, 2.0**40 + 1])) for n in range(20)]
    assert CompiledCost.of_tables(tables, [2] * 20).of((1,) * 20) == 20 * (2**40 + 1)


def test_a_population_of_mobile_costs_the_sum_of_its_rows(mobile: Mobile) -> None:
    table = read_table(find_table("pixel1"))
    values = table.values("mean")
    cost = CompiledCost.compile(mobile.terms, values, mobile.choices)
    archs = np.random.default_rng(0).integers(0, mobile.choices, (500, len(mobile.choices)))
    expected = [
        math.fsum(
            values[key]
            for term in mobile.terms
            for key in term.op_keys[arch[term.decisions[0]] if term.decisions else 0]
        )
        for arch in archs
    ]
    np.testing.assert_allclose(cost(archs), expected, rtol=0, atol=1e-9)


def test_the_sum_of_a_published_network_is_near_what_it_was_measured_at(mobile: Mobile) -> None:
    values = read_table(find_table("pixel1")).values("mean")
    cost = CompiledCost.compile(mobile.terms, values, mobile.choices)
    # 7 % high: operators one by one are not a network, which is what anchors are for.
    assert cost.of(PROXYLESS_MOBILE) == pytest.approx(86.3766, abs=1e-4)
    assert cost.of(PROXYLESS_MOBILE) == pytest.approx(PROXYLESS_MOBILE_MS, rel=0.08)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.int64])
def test_any_whole_numbers_are_choices(dtype: type[np.integer], mobile: Mobile) -> None:
    values = read_table(find_table("pixel1")).values("mean")
    cost = CompiledCost.compile(mobile.terms, values, mobile.choices)
    archs = np.random.default_rng(0).integers(0, mobile.choices, (20_000, len(mobile.choices)))
    assert (cost(archs.astype(dtype)) == cost(archs)).all()
    assert (cost(np.asfortranarray(archs)) == cost(archs)).all()


def test_decisions_that_hang_together_across_the_network_are_costed_exactly() -> None:
    rng = np.random.default_rng(3)
    choices = [9, 9, 9, 9]
    tables = [((0, 1, 2, 3), rng.random((9,) * 4)), ((0, 3), rng.random((9, 9)))]
    cost = CompiledCost.of_tables(tables, choices)
    archs = rng.integers(0, 9, (300, 4))
    assert cost(archs).tolist() == [one_by_one(cost, tuple(arch)) for arch in archs.tolist()]


def test_a_missing_value_says_how_many_which_first_and_what_to_run() -> None:
    message = r"no latency for 2 of 3 operators, first b\. Run nasdeploy profile"
    with pytest.raises(UsageError, match=message):
        CompiledCost.compile([STEM, BLOCK], {"a": 1.0}, [3], hint="Run nasdeploy profile")


def test_a_value_that_is_not_finite_is_refused() -> None:
    with pytest.raises(UsageError, match="latency of b is nan"):
        CompiledCost.compile([BLOCK], {**VALUES, "b": math.nan}, [3])


REFUSED: dict[str, Callable[[CompiledCost], object]] = {
    "choice 3 of decision 0, which has 3": lambda cost: cost([(0,), (3,)]),
    "Architecture 0 takes choice -1": lambda cost: cost.of((-1,)),
    r"must be \(architectures, 1\)": lambda cost: cost([(0, 0)]),
    "whole numbers, not float64": lambda cost: cost(np.zeros((2, 1))),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_architecture_is_refused(message: str) -> None:
    with pytest.raises(UsageError, match=message):
        REFUSED[message](CompiledCost.compile([BLOCK], VALUES, [3]))


def test_an_empty_population_has_no_costs() -> None:
    assert CompiledCost.compile([BLOCK], VALUES, [3])([]).shape == (0,)


def test_a_term_of_another_space_is_refused() -> None:
    with pytest.raises(ValueError, match="costs for decisions"):
        CompiledCost.compile([BLOCK], VALUES, [4])


def test_decisions_that_all_depend_on_each_other_are_too_many_for_an_exact_range() -> None:
    with pytest.raises(UsageError, match="too many to find the exact range"):
        Trellis([7] * 12, [(n, 11) for n in range(11)])
