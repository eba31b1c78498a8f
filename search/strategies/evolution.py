"""Regularized evolution: the best of a few breeds, and the oldest dies.

Real et al. (AAAI 2019, arXiv:1802.01548), Algorithm 1. P is ``population_size``, S is
``tournament_size``.

Where we differ from the paper: children are drawn until one holds every bound and is new, a limited
number of times; then the child is the admissible architecture nearest to its parent, found exactly.
The first P are admissible too. Nothing is evaluated twice. Of a front, each tournament has weights
of its own (augmented Chebyshev, as in Knowles, "ParEGO", IEEE TEC 2006).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nasdeploy.search.goal import Goal
from nasdeploy.search.objective import Bounds
from nasdeploy.search.scalarise import Chebyshev
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.strategies.proposer import Proposer, SamplerSettings, at_least_one
from nasdeploy.search.strategy import Trial


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionSettings(SamplerSettings):
    """
    Attributes:
        population_size: Trials alive at a time.
        tournament_size: Drawn from them for each child; the best of these is its parent.
    """

    population_size: int = 20
    tournament_size: int = 10

    def __post_init__(self) -> None:
        super(EvolutionSettings, self).__post_init__()
        at_least_one(self, "population_size", "tournament_size")


class RegularizedEvolution(Proposer):
    """A `Sampler`."""

    def __init__(
        self, space: SearchSpace, bounds: Bounds, goal: Goal, settings: EvolutionSettings, seed: int
    ) -> None:
        super().__init__(space, bounds, goal, settings, seed)
        self.tournament_size = settings.tournament_size
        self.population_size = settings.population_size
        self._population: deque[Trial] = deque(maxlen=settings.population_size)
        self._judge = Chebyshev(goal, self.rng)

    def propose(self, pending: Sequence[Arch]) -> Arch | None:
        del pending
        return self.draw(self._parent())

    def tell(self, trials: Sequence[Trial]) -> None:
        before = len(self.known)
        super().tell(trials)
        # a full deque drops the oldest, not the worst; a failed trial never lived
        self._population.extend(self.known[before:])

    def _parent(self) -> Arch | None:
        if len(self.met) < self.population_size or not self._population:
            return None
        size = min(self.tournament_size, len(self._population))
        tournament = self.rng.sample(list(self._population), size)
        self._judge.draw()
        return tournament[int(self._judge.scores(tournament).argmax())].arch

    def state_dict(self) -> dict[str, Any]:
        population = [trial.to_json() for trial in self._population]
        return {**super().state_dict(), "population": population}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._population.clear()
        self._population.extend(Trial.of_json(entry) for entry in state["population"])
