"""Architectures that hold the bounds and were not met before: a few draws, then exactly."""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random

import numpy as np

from nasdeploy.latency_tables.optimum import best_within
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, SearchSpace


def draw_within(
    draw: Callable[[], Arch], bounds: Bounds, *, tries: int, exclude: Collection[Arch]
) -> Arch | None:
    """The first of `tries` draws that holds every bound and is not excluded, or None."""
    fresh = [arch for arch in dict.fromkeys(draw() for _ in range(tries)) if arch not in exclude]
    if not fresh:
        return None
    admitted = np.flatnonzero(bounds.admits(fresh))
    return fresh[admitted[0]] if len(admitted) else None


def nearest_within(
    space: SearchSpace,
    bounds: Bounds,
    rng: Random,
    *,
    exclude: Collection[Arch],
    towards: Arch | None = None,
) -> Arch | None:
    """A random architecture that holds every bound; None if all that do are excluded.

    Found exactly, where draws would miss: the one within the bounds with the highest sum of random
    scores. With `towards` it shares as many choices with that architecture as the bounds allow,
    ties broken at random; without, this is not a uniform draw.
    """
    scores = []
    for index, decision in enumerate(space.decisions):
        noise = np.array([rng.random() for _ in decision.choices])
        if towards is not None:
            noise /= len(space.decisions)
            noise[towards[index]] = 2.0
        scores.append(noise)
    found = best_within(scores, bounds.limits(), n=1, exclude=frozenset(exclude))
    return found[0] if found else None
