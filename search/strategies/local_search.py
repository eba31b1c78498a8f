"""Hill climbing with restarts: try the neighbours of the best, move to the first that is better.

White et al., "Exploring the Loss Landscape in Neural Architecture Search" (UAI 2021,
arXiv:2005.02960), algorithm 1 with the first improvement ("query until lower" there). Neighbours
differ in one decision; when none is better, it starts again from a random architecture.

Where we differ: neighbours that break a bound are never tried, and of a batch that is scored
together the climb goes on from the best. A front is climbed by weights that are drawn anew for each
climb (augmented Chebyshev, as in Knowles, "ParEGO", IEEE TEC 2006, section IV).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nasdeploy.search.goal import Goal
from nasdeploy.search.objective import Bounds
from nasdeploy.search.scalarise import Chebyshev
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.strategies.proposer import Proposer, SamplerSettings
from nasdeploy.search.strategy import Trial


class LocalSearch(Proposer):
    """A `Sampler`."""

    def __init__(
        self, space: SearchSpace, bounds: Bounds, goal: Goal, settings: SamplerSettings, seed: int
    ) -> None:
        super().__init__(space, bounds, goal, settings, seed)
        self._at: Trial | None = None
        self._open: list[Arch] = []
        self._chebyshev = Chebyshev(goal, self.rng)

    def propose(self, pending: Sequence[Arch]) -> Arch | None:
        del pending
        while self._open:
            arch = self._open.pop()
            if arch not in self.met and self.bounds.admits([arch])[0]:
                return arch
        self._at = None  # all neighbours were tried: a new climb begins where the next draw lies
        self._chebyshev.draw()
        return self.draw()

    def tell(self, trials: Sequence[Trial]) -> None:
        before = len(self.known)
        super().tell(trials)
        judge = self._chebyshev.scores(self.known)
        for number in range(before, len(self.known)):
            at = self._at
            if at is None or judge[number] > judge[self.known.index(at)]:
                self._at = self.known[number]
        if self._at is not None and (not self._open or self._at in self.known[before:]):
            self._open = self._neighbours(self._at.arch)

    def _neighbours(self, arch: Arch) -> list[Arch]:
        near = [
            (*arch[:index], choice, *arch[index + 1 :])
            for index, decision in enumerate(self.space.decisions)
            for choice in range(len(decision.choices))
            if choice != arch[index]
        ]
        self.rng.shuffle(near)
        return near

    def state_dict(self) -> dict[str, Any]:
        at = None if self._at is None else self._at.to_json()
        state = {"at": at, "open": [list(arch) for arch in self._open]}
        return {**super().state_dict(), **state, "weights": self._chebyshev.weights.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._at = None if state["at"] is None else Trial.of_json(state["at"])
        self._open = [tuple(arch) for arch in state["open"]]
        self._chebyshev.weights = np.array(state["weights"])
