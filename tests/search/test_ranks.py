"""Values as a model sees them."""

from __future__ import annotations

import numpy as np
import pytest

from nasdeploy.search.ranks import Gaps, Quantiles, Scaled

VALUES = np.array([0.10, 0.70, 0.71, 0.72, 0.10, 0.725])


def test_gaps_tell_the_good_apart_and_not_the_bad() -> None:
    normal = Gaps(VALUES).normal
    assert list(np.argsort(normal)) == list(np.argsort(VALUES))
    assert normal.mean() == pytest.approx(0) and normal.std() == pytest.approx(1)
    scaled = Scaled(VALUES).normal
    assert normal[5] - normal[3] > 10 * (scaled[5] - scaled[3])


def test_gaps_keep_how_much_better_which_ranks_lose() -> None:
    close, far = np.array([0.5, 0.6, 0.61]), np.array([0.5, 0.6, 0.9])
    assert np.array_equal(Quantiles(close).normal, Quantiles(far).normal)
    assert Gaps(far).normal[2] - Gaps(far).normal[1] > Gaps(close).normal[2] - Gaps(close).normal[1]


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_gaps_know_no_unit(factor: float) -> None:
    assert Gaps(factor * VALUES + 3 * factor).normal == pytest.approx(Gaps(VALUES).normal)


@pytest.mark.parametrize("values", [[1.0, 1.0], [0.5, 1.0, 1.0, 1.0], [-2.0, -2.0, -3.0]])
def test_equal_values_are_no_division_by_zero(values: list[float]) -> None:
    normal = Gaps(np.array(values)).normal
    assert np.isfinite(normal).all()
    assert len(set(normal)) == len(set(values))
