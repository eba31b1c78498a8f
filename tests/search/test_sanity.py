from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from small_cells import OneCell
from small_search import Blobs, bounds_of, run_to_the_end, small_strategy, space_for

from nasdeploy.errors import UsageError
from nasdeploy.search.evaluators.training import trained_alone
from nasdeploy.search.sanity import Agreement, SanityCheck
from nasdeploy.search.strategies import make_settings
from nasdeploy.search.strategy import Request
from nasdeploy.search.task import Classification

CELL = OneCell()


class Noted:
    """Scores by how many choices are not the first; every second score fails where asked to."""

    def __init__(self, *, failing: bool = False) -> None:
        self.failing = failing
        self.asked: list[Request] = []

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[int, dict[str, float] | str]]:
        self.asked += requests
        for request in requests:
            failed = self.failing and request.number % 2
            score = {"accuracy": float(np.count_nonzero(request.arch))}
            yield request.number, "it failed" if failed else score


def check(shared: Noted, *, archs: int, share: float = 0.4, seed: int = 0) -> SanityCheck:
    return SanityCheck(
        CELL,
        shared,
        task=Classification(),
        deployment=CELL.deployment,
        data=Blobs(),
        bounds=bounds_of(CELL, share),
        seed=seed,
        archs=archs,
        epochs=1,
    )


def test_the_architectures_hold_the_bounds_and_each_is_trained_alone() -> None:
    shared = Noted()
    found = check(shared, archs=4).agreement()
    archs = [request.arch for request in shared.asked]
    assert len(set(archs)) == len(archs) == 4
    assert np.all(bounds_of(CELL, 0.4).admits(archs))
    assert found.shared == tuple(float(np.count_nonzero(arch)) for arch in archs)
    outcome = trained_alone(
        CELL, archs[2], task=Classification(), deployment=CELL.deployment, data=Blobs(), epochs=1,
        seed=shared.asked[2].seed,
    )  # fmt: skip
    assert not isinstance(outcome, str)
    assert found.alone[2] == outcome["accuracy"]


def test_what_failed_is_left_out_and_the_seed_decides_which_are_drawn() -> None:
    first, again, other = Noted(failing=True), Noted(failing=True), Noted()
    found = check(first, archs=3).agreement()
    assert len(found.shared) == len(found.alone) == 2
    assert check(again, archs=3).agreement() == found
    check(other, archs=3, seed=1).agreement()
    assert [r.arch for r in first.asked] == [r.arch for r in again.asked]
    assert [r.arch for r in first.asked] != [r.arch for r in other.asked]


def test_ranks_are_compared_and_not_values() -> None:
    found = Agreement((0.1, 0.2, 0.3, 0.9), (0.5, 0.6, 0.8, 0.7))
    assert found.spearman == pytest.approx(0.8)
    assert found.kendall == pytest.approx(4 / 6)
    assert math.isnan(Agreement((0.5, 0.5, 0.5), (0.1, 0.2, 0.3)).spearman)


@pytest.mark.parametrize("name", ["darts", "pc-darts", "proxyless"])
def test_a_search_reports_it_with_its_last_trial(name: str) -> None:
    settings: dict[str, Any] = {
        "warmup_epochs": 0,
        "search_epochs": 2,
        "sanity_archs": 3,
        "sanity_epochs": 1,
    }
    strategy = small_strategy(name, space_for(name), seed=2, **settings)
    first, last = run_to_the_end(strategy)
    assert "sanity_archs" not in first.metrics
    assert last.metrics["sanity_archs"] == 3
    assert "supernet against 3 trained alone" in strategy.progress
    if "sanity_spearman" in last.metrics:
        assert -1 <= last.metrics["sanity_kendall"] <= 1
    else:
        assert "no ranks to compare" in strategy.progress


def test_two_architectures_have_no_ranks() -> None:
    with pytest.raises(UsageError, match="sanity_archs is 2: it must be 0, or at least 3"):
        make_settings("darts", {"sanity_archs": 2})
