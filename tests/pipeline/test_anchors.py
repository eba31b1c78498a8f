from __future__ import annotations

import numpy as np
from small_run import small_space

from nasdeploy.pipeline.anchors import spread_archs
from nasdeploy.search.counters import counted_cost
from nasdeploy.search.spaces import make_space

SPACE = make_space("mobile-small")
MACS = counted_cost(SPACE, "macs")


def test_eight_anchors_show_every_choice_of_the_space() -> None:
    archs = spread_archs(SPACE, MACS, 8, seed=0)
    assert len(set(archs)) == 8
    for index, decision in enumerate(SPACE.decisions):
        assert {arch[index] for arch in archs} == set(range(len(decision.choices)))


def test_they_go_from_lean_to_lavish() -> None:
    costs = MACS(np.array(spread_archs(SPACE, MACS, 8, seed=0)))
    reach = MACS.range()
    shares = (costs - reach.low) / (reach.high - reach.low)
    assert shares[:4].mean() + 0.2 < shares[4:].mean()
    assert shares.min() < 0.25, "searches end where networks are lean"


def test_one_seed_gives_one_set() -> None:
    assert spread_archs(SPACE, MACS, 6, seed=3) == spread_archs(SPACE, MACS, 6, seed=3)
    assert spread_archs(SPACE, MACS, 6, seed=3) != spread_archs(SPACE, MACS, 6, seed=4)


def test_a_small_space_gives_what_it_has() -> None:
    space = small_space()
    archs = spread_archs(space, counted_cost(space, "macs"), 20, seed=0)
    assert len(archs) == len(set(archs)) == 8
