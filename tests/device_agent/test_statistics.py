"""Quantiles and intervals of samples."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nasdeploy.device_agent.statistics import (
    RESOLUTION_MS,
    STATISTICS,
    Floats,
    Samples,
    Statistic,
    summarise,
)
from nasdeploy.errors import UsageError

TIMES = hnp.arrays(np.float64, (6, 2), elements=st.floats(1e-3, 1e3))


def noise(rounds: int, repeats: int, *, between: float = 0.0, seed: int = 0) -> Floats:
    """Samples around 10 ms: each with noise of its own, and with noise that its round shares."""
    rng = np.random.default_rng(seed)
    shared = between * rng.normal(size=(rounds, 1))
    return np.asarray(10.0 + shared + 0.1 * rng.normal(size=(rounds, repeats)))


@pytest.mark.parametrize("statistic", ["min", "p10", "median", "mean"])
def test_the_interval_holds_what_was_measured_where_one_start_is_longer(
    statistic: Statistic,
) -> None:
    rng = np.random.default_rng(0)
    starts = np.repeat(np.arange(6), [60, 6, 6, 6, 6, 6])
    level = np.array([1.0, 1.1, 1.1, 1.15, 1.2, 1.2])[starts][:, None]
    found = summarise(
        level * (1 + rng.exponential(0.02, size=(90, 2))), starts=starts, statistic=statistic
    )
    low, high = found.ci95_ms or (0.0, 0.0)
    assert low <= found.value(statistic) <= high


def test_the_median_ignores_one_slow_run() -> None:
    found = summarise(np.array([[2.0], [2.1], [90.0]]))
    assert (found.n, found.min_ms, found.median_ms) == (3, 2.0, 2.1)
    assert found.mad_ms == pytest.approx(0.1)


def test_quantiles_are_numpy_s() -> None:
    samples = noise(40, 3)
    found = summarise(samples)
    for statistic, q in [("min", 0), ("p10", 10), ("median", 50), ("p90", 90), ("p95", 95)]:
        assert found.value(statistic) == pytest.approx(np.percentile(samples, q))  # type: ignore[arg-type]
    assert found.mean_ms == pytest.approx(samples.mean())


@pytest.mark.parametrize("statistic", ["median", "mean", "p10"])
def test_the_interval_is_scipy_s_where_rounds_are_single_samples(statistic: Statistic) -> None:
    samples = noise(60, 1)

    def of(x: Floats, axis: int) -> Floats:
        q = {"median": 50, "p10": 10}
        mean = x.mean(axis=axis)
        return np.asarray(
            mean if statistic == "mean" else np.percentile(x, q[statistic], axis=axis)
        )

    reference = scipy.stats.bootstrap(
        (samples.ravel(),), of, method="percentile", n_resamples=20_000, rng=1
    ).confidence_interval
    found = summarise(samples, statistic=statistic).ci95_ms
    assert found is not None
    width = reference.high - reference.low
    assert found == pytest.approx((reference.low, reference.high), abs=0.15 * width)


def test_what_a_round_shares_widens_the_interval() -> None:
    def width(samples: Floats) -> float:
        low, high = summarise(samples, statistic="mean").ci95_ms or (0.0, 0.0)
        return high - low

    shared = noise(50, 10, between=0.5)
    alone = shared.reshape(-1, 1)
    # the shared part does not average out over the 10 samples of a round: the standard error is
    # sqrt((0.5**2 + 0.1**2 / 10) / 50) and not sqrt((0.5**2 + 0.1**2) / 500)
    assert width(shared) / width(alone) == pytest.approx(
        np.sqrt(0.251 / 50 / (0.26 / 500)), rel=0.2
    )


def test_with_three_starts_the_interval_reaches_from_the_fastest_to_the_slowest() -> None:
    starts = np.repeat([1, 2, 3], 20)
    samples = noise(60, 2) + 0.5 * starts[:, None]
    low, high = summarise(samples, starts=starts, statistic="mean").ci95_ms or (0.0, 0.0)
    assert low == pytest.approx(10.5, abs=0.1)
    assert high == pytest.approx(11.5, abs=0.1)


def test_a_long_start_weighs_no_more_than_a_short_one() -> None:
    starts = np.repeat([1, 2], [58, 2])
    samples = noise(60, 2) + 1.0 * starts[:, None]
    low, high = summarise(samples, starts=starts, statistic="mean").ci95_ms or (0.0, 0.0)
    assert (low, high) == pytest.approx((11.0, 12.0), abs=0.1)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    # 60 draws of 40 rounds: 95 % of 60 is 57; 49 or fewer has a probability below 1e-3
    hits = 0
    for seed in range(60):
        low, high = summarise(noise(40, 2, between=0.3, seed=seed), statistic="mean").ci95_ms or (
            0,
            0,
        )
        hits += low <= 10.0 <= high
    assert hits >= 50


def test_what_a_call_costs_is_taken_off_each_statistic() -> None:
    empty = 0.05 + noise(30, 6) / 1000
    graph = noise(30, 2)
    plain, less = summarise(graph), summarise(graph, minus_ms=empty)
    assert less.median_ms == pytest.approx(plain.median_ms - np.median(empty))
    assert less.min_ms == pytest.approx(plain.min_ms - empty.min())
    assert less.p95_ms == pytest.approx(plain.p95_ms - np.median(empty))
    assert less.mean_ms == pytest.approx(plain.mean_ms - empty.mean())
    assert plain.ci95_ms and less.ci95_ms
    assert less.ci95_ms[0] == pytest.approx(plain.ci95_ms[0] - np.median(empty))
    assert not less.below_resolution


def test_what_takes_no_longer_than_nothing_says_so() -> None:
    samples = noise(10, 2)
    found = summarise(samples, minus_ms=samples)
    assert found.below_resolution
    assert found.median_ms == found.min_ms == RESOLUTION_MS


@settings(max_examples=50)
@given(TIMES, TIMES)
def test_statistics_are_positive_and_in_order(samples: Floats, empty: Floats) -> None:
    found = summarise(samples, minus_ms=empty)
    quantiles = [found.min_ms, found.p10_ms, found.median_ms, found.p90_ms, found.p95_ms]
    assert quantiles == sorted(quantiles)
    assert all(found.value(s) >= RESOLUTION_MS for s in STATISTICS)
    assert found.ci95_ms and RESOLUTION_MS <= found.ci95_ms[0] <= found.ci95_ms[1]


def test_the_same_seed_gives_the_same_interval() -> None:
    samples = noise(20, 2)
    assert summarise(samples, seed=3) == summarise(samples, seed=3)
    assert summarise(samples, seed=3) != summarise(samples, seed=4)


def test_one_round_has_no_interval() -> None:
    assert summarise(noise(1, 5)).ci95_ms is None


def test_a_misspelt_statistic_is_refused() -> None:
    with pytest.raises(UsageError, match="Unknown statistic 'p50'"):
        summarise(noise(3, 2), statistic="p50")  # type: ignore[arg-type]


def test_the_thread_clock_is_refused_where_it_was_not_read() -> None:
    samples = Samples(noise(3, 2), None, np.ones(3, dtype=np.int64))
    assert samples.of("wall").shape == (3, 2)
    with pytest.raises(UsageError, match="one thread"):
        samples.of("thread")
