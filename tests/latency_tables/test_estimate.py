from __future__ import annotations

from dataclasses import replace
from statistics import median

import numpy as np
import pytest
from mobile_terms import PROXYLESS_MOBILE, PROXYLESS_MOBILE_MS, Mobile

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.latency_tables.elimination import Arch
from nasdeploy.latency_tables.estimate import Estimator, Measured, estimator_for
from nasdeploy.latency_tables.rows import Anchor, Row, Statistics
from nasdeploy.latency_tables.table import LatencyTable, find_table, read_table

DEPLOYMENT = {"input_shape": [3, 224, 224], "classes": 1000}


@pytest.fixture(scope="module")
def cost(mobile: Mobile) -> CompiledCost:
    values = read_table(find_table("pixel1")).values("mean")
    return CompiledCost.compile(mobile.terms, values, mobile.choices)


def networks(cost: CompiledCost, count: int, seed: int) -> list[Arch]:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, cost.choices, (count, len(cost.choices)))
    return [tuple(arch) for arch in drawn.tolist()]


def measured(
    cost: CompiledCost, archs: list[Arch], *, noise: float, seed: int = 0
) -> tuple[Measured, ...]:
    """What a device would say whose networks take 0.8 of the sum and 3 ms, give or take."""
    errors = np.random.default_rng(seed).standard_normal(len(archs)) * noise
    times = (0.8 * cost(archs) + 3.0) * (1 + errors)
    return tuple(Measured(arch, float(ms)) for arch, ms in zip(archs, times, strict=True))


def test_without_networks_the_estimate_is_the_sum_and_its_interval_unknown(
    cost: CompiledCost,
) -> None:
    estimator = Estimator(cost)
    estimate = estimator(PROXYLESS_MOBILE)
    assert estimate.ms == cost.of(PROXYLESS_MOBILE)
    assert (estimate.low_ms, estimate.high_ms) == (None, None)
    assert estimator.range() == cost.range()
    assert "interval unknown" in estimator.describe()


def test_one_network_scales_the_sum_and_leaves_the_interval_unknown(cost: CompiledCost) -> None:
    estimator = Estimator(cost, (Measured(PROXYLESS_MOBILE, PROXYLESS_MOBILE_MS),))
    assert estimator(PROXYLESS_MOBILE).ms == pytest.approx(PROXYLESS_MOBILE_MS)
    assert estimator(PROXYLESS_MOBILE).low_ms is None
    assert not estimator.coefficients
    assert estimator.describe() == "fitted on 1 network: 0.9339 x sum, interval unknown"


def test_two_networks_scale_the_sum_with_a_wide_interval(cost: CompiledCost) -> None:
    estimator = Estimator(cost, measured(cost, networks(cost, 2, seed=1), noise=0.01))
    estimate = estimator(networks(cost, 1, seed=2)[0])
    assert not estimator.coefficients
    assert estimate.low_ms is not None and estimate.high_ms is not None
    assert estimate.low_ms < 0.95 * estimate.ms < 1.05 * estimate.ms < estimate.high_ms


def test_scale_and_offset_are_found_again(cost: CompiledCost) -> None:
    estimator = Estimator(cost, measured(cost, networks(cost, 8, seed=1), noise=0.0))
    assert estimator.scale == pytest.approx(0.8)
    assert estimator.coefficients == {"offset": pytest.approx(3.0)}
    assert max(estimator.loo_errors) < 1e-9


def test_nineteen_new_measurements_in_twenty_lie_in_the_interval(cost: CompiledCost) -> None:
    inside = []
    for trial in range(60):
        anchors = measured(cost, networks(cost, 8, seed=trial), noise=0.01, seed=trial)
        estimator = Estimator(cost, anchors)
        for new in measured(
            cost, networks(cost, 10, seed=900 + trial), noise=0.01, seed=500 + trial
        ):
            estimate = estimator(new.arch)
            assert estimate.low_ms is not None and estimate.high_ms is not None
            inside.append(estimate.low_ms <= new.ms <= estimate.high_ms)
    assert 0.92 <= np.mean(inside) <= 0.98


def test_a_population_one_network_and_the_compiled_cost_agree_to_the_last_bit(
    cost: CompiledCost,
) -> None:
    estimator = Estimator(cost, measured(cost, networks(cost, 8, seed=1), noise=0.01))
    archs = networks(cost, 50, seed=3)
    assert estimator.population(archs).tolist() == [estimator(arch).ms for arch in archs]
    reach = estimator.range()
    assert reach.low == estimator(reach.lowest).ms
    # Two roundings of every cost to 2^-52 of the highest sum lie between the two ways.
    expected = estimator.scale * cost(archs) + estimator.coefficients["offset"]
    np.testing.assert_allclose(estimator.population(archs), expected, rtol=1e-12)


def spread_over_the_range(cost: CompiledCost) -> list[Arch]:
    """Eight networks from the fastest to the slowest."""
    reach, rng = cost.range(), np.random.default_rng(4)
    fast, slow = np.array(reach.lowest), np.array(reach.highest)
    mixed = [np.where(rng.random(len(fast)) < share, slow, fast) for share in np.linspace(0, 1, 8)]
    return [tuple(arch) for arch in np.array(mixed).tolist()]


def test_a_network_measured_by_a_search_moves_the_estimate_half_of_the_way(
    cost: CompiledCost,
) -> None:
    estimator = Estimator(cost, measured(cost, spread_over_the_range(cost), noise=0.0))
    reach = cost.range()
    found = spread_over_the_range(cost)[2]
    slower = 1.04 * estimator(found).ms
    corrected = estimator.with_anchor(found, slower)
    near = (corrected(found).ms / estimator(found).ms - 1) / 0.04
    far = (corrected(reach.highest).ms / estimator(reach.highest).ms - 1) / 0.04
    assert 0.4 < near < 0.6
    assert abs(far) < near
    assert len(estimator.anchors) == 8, "the first estimator stays what it was"
    assert "9 networks (1 measured during the search)" in corrected.describe()
    again = corrected.with_anchor(found, slower)
    assert near < (again(found).ms / estimator(found).ms - 1) / 0.04 < 1


def test_where_the_table_has_no_anchors_the_estimate_follows_what_a_search_measured(
    cost: CompiledCost,
) -> None:
    random_ones = networks(cost, 8, seed=1)
    estimator = Estimator(cost, measured(cost, random_ones, noise=0.0))
    fast = cost.range().lowest
    assert cost.of(fast) < 0.5 * cost(random_ones).min()
    corrected = estimator.with_anchor(fast, 1.04 * estimator(fast).ms)
    assert 0.9 < (corrected(fast).ms / estimator(fast).ms - 1) / 0.04 <= 1


def test_networks_that_take_alike_fit_no_offset(cost: CompiledCost) -> None:
    first = networks(cost, 1, seed=1)[0]
    anchors = tuple(Measured(first, 50.0 + n) for n in range(4))
    estimator = Estimator(cost, anchors)
    assert not estimator.coefficients
    assert "ms," not in estimator.describe()


def test_a_fit_never_makes_a_network_take_less_than_nothing(cost: CompiledCost) -> None:
    archs = networks(cost, 6, seed=1)
    steep = [Measured(arch, float(cost.of(arch) ** 3) * 1e-4) for arch in archs]
    estimator = Estimator(cost, tuple(steep))
    assert estimator.range().low > 0


def table_with(*anchors: Anchor) -> LatencyTable:
    published = read_table(find_table("pixel1"))
    ops = {
        key: Row(n=row.n, median_ms=row.mean_ms, mean_ms=row.mean_ms)
        for key, row in published.ops.items()
    }
    return replace(published, ops=ops, anchors=anchors)


def anchor(space: str, size: int, ms: float) -> Anchor:
    return Anchor(
        space=space,
        deployment={"classes": 1000, "input_shape": (3, size, size)},
        arch=PROXYLESS_MOBILE,
        statistics=Statistics(n=100, median_ms=ms),
    )


def test_only_networks_of_the_same_space_and_deployment_are_fitted_on(mobile: Mobile) -> None:
    table = table_with(
        anchor("mobile", 224, 80.0), anchor("mobile", 96, 20.0), anchor("darts", 224, 1.0)
    )
    estimator = estimator_for(table, "mobile", DEPLOYMENT, mobile.terms, mobile.choices)
    assert [a.ms for a in estimator.anchors] == [80.0]
    assert estimator.statistic == "median"


def test_a_statistic_that_a_table_or_an_anchor_lacks_is_named(mobile: Mobile) -> None:
    published = read_table(find_table("pixel1"))
    with pytest.raises(UsageError, match="has no median for every operator, only mean"):
        estimator_for(
            published, "mobile", DEPLOYMENT, mobile.terms, mobile.choices, statistic="median"
        )
    assert (
        estimator_for(published, "mobile", DEPLOYMENT, mobile.terms, mobile.choices).statistic
        == "mean"
    )
    with pytest.raises(UsageError, match="There is no mean here, only median"):
        estimator_for(
            table_with(anchor("mobile", 224, 80.0)),
            "mobile", DEPLOYMENT, mobile.terms, mobile.choices, statistic="mean",
        )  # fmt: skip


def test_a_missing_operator_is_an_error_with_the_command_that_measures_it(mobile: Mobile) -> None:
    table = table_with()
    some = dict(list(table.ops.items())[5:])
    with pytest.raises(UsageError, match=r"5 of 72 operators.*nasdeploy profile --device pixel1"):
        estimator_for(replace(table, ops=some), "mobile", DEPLOYMENT, mobile.terms, mobile.choices)


def test_an_anchor_that_took_no_time_is_refused(cost: CompiledCost) -> None:
    with pytest.raises(UsageError, match=r"took 0\.0 ms"):
        Estimator(cost).with_anchor(PROXYLESS_MOBILE, 0.0)


def test_errors_are_reported_on_networks_that_were_left_out(cost: CompiledCost) -> None:
    anchors = measured(cost, networks(cost, 8, seed=1), noise=0.01)
    estimator = Estimator(cost, anchors)
    without_first = Estimator(cost, anchors[1:])
    error = abs(without_first(anchors[0].arch).ms / anchors[0].ms - 1)
    assert estimator.loo_errors[0] == pytest.approx(error)
    assert f"median error {median(estimator.loo_errors):.2%}" in estimator.describe()
