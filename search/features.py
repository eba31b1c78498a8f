"""Architectures as a Gaussian process sees them: the choices, and what they make."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import numpy as np
import numpy.typing as npt

from nasdeploy.search.gaussian_process import Kernel, one_hot
from nasdeploy.search.pool import SMALL, every_arch
from nasdeploy.search.space import Arch, Decision, SearchSpace, size_of
from nasdeploy.search.traits import traits
from nasdeploy.search.wired_space import WiredSpace

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.integer]

_DRAWS = 1000  # whose deviations are the units of the traits
# Where there are traits they say most, and choices are compared closely: what those add is mostly
# what one training differs from another. Elsewhere the choices say most.
_TRAITS_SHARE, _TRAITS_RATE, _FAR = 0.7, 0.3, 12.0
_COUNTS_SHARE, _COUNTS_RATE, _NEAR = 0.3, 0.48, 2.0


class Features:
    """The choices in one-hot form, and beside them what is compared by its distance.

    Where decisions say how operators are wired, that are traits of the networks
    (`search/traits.py`), each in units of its deviation among random ones. Where networks are
    chains, or the space does not say, it is how often each choice is taken by all decisions that
    offer the same ones.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.choices = tuple(len(decision.choices) for decision in space.decisions)
        self._counts = counted(space.decisions) * (_COUNTS_RATE / len(self.choices)) ** 0.5
        self._unit: FloatArray | None = None
        self._every: FloatArray | None = None
        if isinstance(space, WiredSpace):
            rng = Random(0)
            _, values = traits(space, [space.sample(rng) for _ in range(_DRAWS)])
            if (values[:, -2] != values[:, -1]).any():  # no chains: some ways are shorter
                self._unit = _units(values)

    def kernel(self) -> Kernel:
        """Before anything is known."""
        if self._unit is None:
            return Kernel.usual(self.choices, share=_COUNTS_SHARE, scale=_NEAR)
        return Kernel.usual(self.choices, share=_TRAITS_SHARE, scale=_FAR)

    def __call__(self, archs: Sequence[Arch] | IntArray) -> FloatArray:
        """(n, all choices of all decisions and more) of (n, decisions)."""
        rows = np.asarray(archs, np.intp).reshape(-1, len(self.choices))
        if size_of(self.space) > SMALL:
            return self._of(rows)
        if self._every is None:
            self._every = self._of(every_arch(self.choices))
        found: FloatArray = self._every[np.ravel_multi_index(tuple(rows.T), self.choices)]
        return found

    def _of(self, rows: IntArray) -> FloatArray:
        taken = one_hot(rows, self.choices)
        if self._unit is None:
            return np.hstack([taken, taken @ self._counts])
        assert isinstance(self.space, WiredSpace)
        return np.hstack([taken, traits(self.space, rows)[1] * self._unit])


def _units(values: IntArray) -> FloatArray:
    """(traits,) what (n, traits) are multiplied by; 0 for those that do not differ."""
    deviation = values.std(axis=0)
    differs = deviation > 0
    units = np.zeros(len(deviation))
    units[differs] = (_TRAITS_RATE / differs.sum()) ** 0.5 / deviation[differs]
    return units


def counted(decisions: Sequence[Decision]) -> FloatArray:
    """(all choices of all decisions, choices of all alphabets): adds a one-hot form up to counts.

    An alphabet is a tuple of choices that one or more decisions offer.
    """
    alphabets = list(dict.fromkeys(decision.choices for decision in decisions))
    starts = np.cumsum([0, *map(len, alphabets)])
    rows = [
        starts[alphabets.index(decision.choices)] + choice
        for decision in decisions
        for choice in range(len(decision.choices))
    ]
    return np.eye(int(starts[-1]))[rows]
