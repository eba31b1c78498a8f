"""Independent draws within the bounds: the baseline that every strategy must beat.

Li and Talwalkar, "Random Search and Reproducibility for Neural Architecture Search" (UAI 2019,
arXiv:1902.07638), with shared weights as there. Where few draws hold the bounds, the rest is found
exactly and is no longer an even draw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

from torch import Tensor

from nasdeploy.search.admissible import draw_within, nearest_within
from nasdeploy.search.data import SearchData
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.strategies.one_shot import OneShot, OneShotSettings
from nasdeploy.search.strategy import Trial
from nasdeploy.search.task import Task


class RandomSearch:
    """A `Sampler` that learns nothing."""

    def __init__(self, space: SearchSpace, bounds: Bounds, *, seed: int, tries: int) -> None:
        self.space = space
        self.bounds = bounds
        self.tries = tries
        self._rng = Random(seed)
        self._met: dict[Arch, None] = {}

    def ask(self, n: int) -> list[Arch]:
        """Up to `n` new architectures within the bounds; fewer when there are no more."""
        archs: list[Arch] = []
        for _ in range(n):
            arch = draw_within(
                lambda: self.space.sample(self._rng),
                self.bounds,
                tries=self.tries,
                exclude=self._met,
            ) or nearest_within(self.space, self.bounds, self._rng, exclude=self._met)
            if arch is None:
                break
            self._met[arch] = None
            archs.append(arch)
        return archs

    def tell(self, trials: Sequence[Trial]) -> None:
        del trials

    def state_dict(self) -> dict[str, Any]:
        return {"rng": self._rng.getstate(), "met": [list(arch) for arch in self._met]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._rng.setstate(state["rng"])
        self._met = dict.fromkeys(tuple(arch) for arch in state["met"])


def random_search(
    space: SearchSpace,
    *,
    task: Task,
    train_deployment: Deployment,
    data: SearchData,
    bounds: Bounds,
    seed: int,
    settings: OneShotSettings,
    supernet_weights: Mapping[str, Tensor] | None = None,
) -> OneShot:
    """Random search on a single-path supernet."""
    return OneShot(
        space,
        RandomSearch(space, bounds, seed=seed, tries=settings.tries),
        task=task,
        train_deployment=train_deployment,
        data=data,
        bounds=bounds,
        seed=seed,
        settings=settings,
        supernet_weights=supernet_weights,
    )
