"""What is fitted beside the scale, on networks whose true latency is known."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from nasdeploy.latency_tables.calibration import ELEMENTS, OFFSET, OPERATORS, POOLED
from nasdeploy.latency_tables.cost import CompiledCost, CostTerm
from nasdeploy.latency_tables.elimination import FloatArray
from nasdeploy.latency_tables.estimate import Estimator, Measured, corrections_of

Archs = npt.NDArray[np.int64]

CHOICES = (4,) * 6
KEYS = [f"op[out={2 + i}]({1 + i}x{8 + 4 * c}x{8 + 2 * i})" for i in range(6) for c in range(3)]
TERMS = [
    CostTerm((i,), (4,), ((), *((key,) for key in KEYS[3 * i : 3 * i + 3]))) for i in range(6)
] + [CostTerm((), (), (("stem[](3x32x32)",),))]
RNG = np.random.default_rng(0)
ALONE = {key: float(RNG.uniform(0.2, 2.0)) for key in [*KEYS, "stem[](3x32x32)"]}
CORRECTIONS = corrections_of(TERMS, CHOICES)
SUM = CompiledCost.compile(TERMS, ALONE, CHOICES)


def true_ms(archs: Archs, *, element_ms: float, operator_ms: float, offset_ms: float) -> FloatArray:
    return np.asarray(
        0.9 * SUM(archs)
        + element_ms * CORRECTIONS[ELEMENTS](archs)
        + operator_ms * CORRECTIONS[OPERATORS](archs)
        + offset_ms
    )  # fmt: skip


def fitted(count: int, *, corrections: bool = True, **truth: float) -> tuple[Estimator, FloatArray]:
    """An estimator on slow networks, and its relative errors on all of 300 others."""
    slow = RNG.integers(1, 4, (count, 6))
    anchors = tuple(
        Measured(tuple(arch.tolist()), float(ms))
        for arch, ms in zip(slow, true_ms(slow, **truth), strict=True)
    )
    estimator = Estimator(SUM, anchors, "p10", CORRECTIONS if corrections else {})
    others = RNG.integers(0, 4, (300, 6))
    return estimator, estimator.population(others) / true_ms(others, **truth) - 1


def test_an_operator_counts_its_inputs_elements_and_itself() -> None:
    arch = (1, 0, 0, 0, 0, 3)
    assert CORRECTIONS[OPERATORS].of(arch) == 3
    assert CORRECTIONS[ELEMENTS].of(arch) == 1 * 8 * 8 + 6 * 16 * 18 + 3 * 32 * 32


def test_what_files_do_at_their_edges_is_found_and_holds_for_faster_networks() -> None:
    estimator, errors = fitted(8, element_ms=-5e-5, operator_ms=0, offset_ms=0)
    assert estimator.coefficients == {ELEMENTS: pytest.approx(-5e-5)}
    assert np.abs(errors).max() < 1e-9
    _, with_offset = fitted(8, corrections=False, element_ms=-5e-5, operator_ms=0, offset_ms=0)
    assert np.abs(with_offset).max() > 0.01


def test_what_each_operator_costs_by_itself_is_found_when_it_makes_a_difference() -> None:
    estimator, errors = fitted(8, element_ms=-2e-5, operator_ms=-0.06, offset_ms=0)
    assert set(estimator.coefficients) == {ELEMENTS, OPERATORS}
    assert np.abs(errors).max() < 1e-9


def test_what_pools_take_by_themselves_and_not_in_a_network_is_found() -> None:
    # each decision: nothing, a convolution, a pool
    pairs = [(f"conv[out=8](8x{n}x{n})", f"avg_pool[kernel=3](8x{n}x{n})") for n in range(6, 12)]
    terms = [CostTerm((i,), (3,), ((), (conv,), (pool,))) for i, (conv, pool) in enumerate(pairs)]
    terms.append(TERMS[-1])
    choices = (3,) * 6
    alone = {key: float(RNG.uniform(0.5, 2.0)) for pair in pairs for key in pair} | ALONE
    total = CompiledCost.compile(terms, alone, choices)
    corrections = corrections_of(terms, choices)
    archs = np.array([[1, 2, 0, 1, 1, 2], *RNG.integers(0, 3, (309, 6))])
    truth = 0.8 * total(archs) - 4e-4 * corrections[POOLED](archs)
    anchors = tuple(
        Measured(tuple(arch), float(ms))
        for arch, ms in zip(archs[:10].tolist(), truth[:10], strict=True)
    )
    estimator = Estimator(total, anchors, "p10", corrections)
    assert estimator.coefficients == {POOLED: pytest.approx(-4e-4)}
    assert estimator.population(archs[10:]) == pytest.approx(truth[10:])


def test_few_networks_fit_the_scale_alone() -> None:
    estimator, _ = fitted(2, element_ms=-5e-5, operator_ms=0, offset_ms=0)
    assert not estimator.coefficients


def test_without_counts_an_offset_is_what_is_left() -> None:
    estimator, errors = fitted(8, corrections=False, element_ms=0, operator_ms=0, offset_ms=0.4)
    assert estimator.coefficients == {OFFSET: pytest.approx(0.4)}
    assert np.abs(errors).max() < 1e-9


def test_a_correction_that_leaves_a_network_less_than_no_time_is_not_taken() -> None:
    estimator, _ = fitted(8, element_ms=-4e-4, operator_ms=0, offset_ms=0)
    assert estimator.range().low > 0
