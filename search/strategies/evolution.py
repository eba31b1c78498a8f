"""Regularized evolution: the best of a few breeds, and the oldest dies.

Real et al. (AAAI 2019, arXiv:1802.01548), Algorithm 1. P is ``population_size``, S is
``tournament_size``.

Where we differ from the paper: children are drawn until one holds every bound and is new, a limited
number of times; then the child is the admissible architecture nearest to its parent, found exactly.
The first P are admissible too. Nothing is trained twice, so a repeated architecture is not scored
again. Scores come from a single-path supernet (`OneShot`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from torch import Tensor

from nasdeploy.search.admissible import draw_within, nearest_within
from nasdeploy.search.data import SearchData
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.strategies.one_shot import OneShot, OneShotSettings
from nasdeploy.search.strategy import Trial
from nasdeploy.search.supernet_training import require
from nasdeploy.search.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class EvolutionSettings(OneShotSettings):
    """
    Attributes:
        population_size: Trials alive at a time.
        tournament_size: Drawn from them for each child; the best of these is its parent.
    """

    population_size: int = 50
    tournament_size: int = 12

    def __post_init__(self) -> None:
        super(EvolutionSettings, self).__post_init__()
        sizes = {
            "population_size": self.population_size,
            "tournament_size": self.tournament_size,
        }
        require("at least 1", sizes, lambda value: value >= 1)


class RegularizedEvolution:
    """A `Sampler`.

    Args:
        metric: What a trial is judged by; higher is better.
        seed: The only source of randomness: one seed, one sequence of proposals.
        tries: Draws for each child before the nearest admissible one is found exactly.
    """

    def __init__(
        self,
        space: SearchSpace,
        bounds: Bounds,
        *,
        metric: str,
        seed: int,
        population_size: int,
        tournament_size: int,
        tries: int,
    ) -> None:
        self.space = space
        self.bounds = bounds
        self.metric = metric
        self.tournament_size = tournament_size
        self.population_size = population_size
        self.tries = tries
        self._rng = Random(seed)
        self._population: deque[tuple[Arch, float]] = deque(maxlen=population_size)
        # ordered, so that what is saved is the same text for the same search
        self._met: dict[Arch, None] = {}

    def ask(self, n: int) -> list[Arch]:
        """Up to `n` new architectures within the bounds; fewer when there are no more."""
        archs: list[Arch] = []
        for _ in range(n):
            child = self._propose()
            if child is None:
                break
            self._met[child] = None
            archs.append(child)
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        # a full deque drops the oldest, not the worst; a failed trial never lived
        self._population.extend(
            (trial.arch, trial.metrics[self.metric]) for trial in trials if trial.failure is None
        )

    def _propose(self) -> Arch | None:
        parent = self._parent()

        def draw() -> Arch:
            if parent is None:
                return self.space.sample(self._rng)
            return self.space.mutate(parent, self._rng)

        child = draw_within(draw, self.bounds, tries=self.tries, exclude=self._met)
        return child or nearest_within(
            self.space, self.bounds, self._rng, exclude=self._met, towards=parent
        )

    def _parent(self) -> Arch | None:
        if len(self._met) < self.population_size or not self._population:
            return None
        size = min(self.tournament_size, len(self._population))
        tournament = self._rng.sample(list(self._population), size)
        return max(tournament, key=lambda member: member[1])[0]

    def state_dict(self) -> dict[str, Any]:
        return {
            "rng": self._rng.getstate(),
            "population": [[list(arch), score] for arch, score in self._population],
            "met": [list(arch) for arch in self._met],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.setstate(state["rng"])
        self._population.clear()
        self._population.extend((tuple(arch), score) for arch, score in state["population"])
        self._met = dict.fromkeys(tuple(arch) for arch in state["met"])


def evolution(
    space: SearchSpace,
    *,
    task: Task,
    train_deployment: Deployment,
    data: SearchData,
    bounds: Bounds,
    seed: int,
    settings: EvolutionSettings,
    supernet_weights: Mapping[str, Tensor] | None = None,
) -> OneShot:
    """Regularized evolution on a single-path supernet."""
    sampler = RegularizedEvolution(
        space,
        bounds,
        metric=task.metric,
        seed=seed,
        population_size=settings.population_size,
        tournament_size=settings.tournament_size,
        tries=settings.tries,
    )
    return OneShot(
        space,
        sampler,
        task=task,
        train_deployment=train_deployment,
        data=data,
        bounds=bounds,
        seed=seed,
        settings=settings,
        supernet_weights=supernet_weights,
    )
