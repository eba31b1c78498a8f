from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from pymoo.indicators.hv import HV
from pymoo.operators.survival.rank_and_crowding.metrics import calc_crowding_distance
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting

from nasdeploy.search.front_gain import expected_gain
from nasdeploy.search.hypervolume import crowding, front_layers, hypervolume
from nasdeploy.search.pareto import non_dominated

FloatArray = npt.NDArray[np.float64]


def points(n: int, objectives: int, seed: int) -> FloatArray:
    rng = np.random.default_rng(seed)
    # some are equal to each other, in one objective or in all
    return rng.integers(0, 12, (n, objectives)) / 10.0


@pytest.mark.parametrize("objectives", [2, 3, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_hypervolume_is_that_of_pymoo(objectives: int, seed: int) -> None:
    costs, reference = points(40, objectives, seed), np.full(objectives, 1.0)
    assert hypervolume(costs, reference) == pytest.approx(HV(ref_point=reference)(costs))


def test_a_point_beyond_the_reference_covers_nothing() -> None:
    assert hypervolume(np.array([[0.5, 2.0]]), np.ones(2)) == 0.0


@pytest.mark.parametrize("objectives", [2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_layers_are_those_of_pymoo(objectives: int, seed: int) -> None:
    costs = points(60, objectives, seed)
    layers = front_layers(costs)
    for number, front in enumerate(NonDominatedSorting().do(costs)):
        assert set(front.tolist()) == set(np.flatnonzero(layers == number).tolist())
    np.testing.assert_array_equal(layers == 0, non_dominated(costs))


def test_crowding_is_that_of_pymoo_in_each_layer() -> None:
    costs = np.random.default_rng(0).random((50, 2))
    layers = front_layers(costs)
    ours = crowding(costs, layers)
    for number in range(layers.max() + 1):
        members = layers == number
        if members.sum() < 3:
            assert np.isinf(ours[members]).all()
            continue
        theirs = calc_crowding_distance(costs[members])
        # pymoo divides by the number of objectives
        finite = np.isfinite(theirs)
        np.testing.assert_array_equal(np.isfinite(ours[members]), finite)
        np.testing.assert_allclose(ours[members][finite], 2 * theirs[finite])


def test_a_fronts_expected_gain_is_the_hypervolume_that_is_added() -> None:
    rng = np.random.default_rng(3)
    known = np.column_stack([-rng.random(8), rng.random(8)])
    levels, costs = rng.random((5, 3)), rng.random((5, 1))
    low, span = known.min(axis=0), np.ptp(known, axis=0)
    reference, scaled = np.full(2, 1.1), (known - known.min(axis=0)) / span
    before = hypervolume(scaled, reference)
    gains = expected_gain(known, levels, costs, np.full(2, 0.5))
    for number in range(5):
        added = []
        for level in levels[number]:
            new = (np.array([[-level, costs[number, 0]]]) - low) / span
            added.append(hypervolume(np.vstack([scaled, new]), reference) - before)
        assert gains[number] == pytest.approx(np.mean(added))
