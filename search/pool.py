"""Architectures for a model to choose from: all of a small space, near and far ones of a large."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from random import Random

import numpy as np
import numpy.typing as npt

from nasdeploy.search.admissible import nearest_within
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, SearchSpace, size_of

IntArray = npt.NDArray[np.integer]

SMALL = 20_000  # a space that is looked at whole
_DRAWS = 1000
_MUTANTS = 1000  # of the best
_MUTATIONS = 3  # at most, one after another


class Pool:
    """What a space offers within the bounds."""

    def __init__(self, space: SearchSpace, bounds: Bounds) -> None:
        self.space = space
        self.bounds = bounds
        self.choices = [len(decision.choices) for decision in space.decisions]
        self._every: IntArray | None = None
        if size_of(space) <= SMALL:
            self._every = every_arch(self.choices)

    def candidates(
        self, rng: Random, *, exclude: Collection[Arch], near: Sequence[Arch] = ()
    ) -> IntArray:
        """(n, decisions) architectures within the bounds, none excluded; empty if there are none.

        Args:
            near: Of a large space, a half are mutations of these.
        """
        if self._every is not None:
            fresh = np.ones(len(self._every), np.bool_)
            if exclude:
                fresh[np.ravel_multi_index(np.array(list(exclude)).T, self.choices)] = False
            return self._every[fresh & self.bounds.admits(self._every)]
        drawn = dict.fromkeys(self.space.sample(rng) for _ in range(_DRAWS))
        for _ in range(_MUTANTS if near else 0):
            arch = near[rng.randrange(len(near))]
            for _ in range(rng.randint(1, _MUTATIONS)):
                arch = self.space.mutate(arch, rng)
            drawn[arch] = None
        archs = np.array([arch for arch in drawn if arch not in exclude], np.int64)
        archs = archs.reshape(-1, len(self.choices))
        archs = archs[self.bounds.admits(archs)] if len(archs) else archs
        if len(archs):
            return archs
        towards = near[0] if near else None
        found = nearest_within(self.space, self.bounds, rng, exclude=exclude, towards=towards)
        return np.array([] if found is None else [found], np.int64).reshape(-1, len(self.choices))


def every_arch(choices: Sequence[int]) -> IntArray:
    """(all, decisions) architectures in row-major order, of a space that is small."""
    return np.array(list(itertools.product(*map(range, choices))))
