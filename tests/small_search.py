"""A space, images and bounds that are small enough for a search within a second."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from small_cells import OneCell
from torch import Tensor

from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.latency_tables.estimate import Estimator
from nasdeploy.latency_tables.optimum import Limit
from nasdeploy.search.counters import counted_cost
from nasdeploy.search.data import Split
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import SearchSpace
from nasdeploy.search.spaces import make_space
from nasdeploy.search.strategies import WeightSharing, make_strategy
from nasdeploy.search.strategy import Trial
from nasdeploy.search.task import Classification

# what is promised bit by bit is promised on one thread
torch.set_num_threads(1)

SMALL: dict[str, Any] = {
    "input_shape": (1, 12, 12),
    "classes": 4,
    "stem": 8,
    "first": 8,
    "stages": ((8, 2, 2), (16, 2, 2)),
    "features": 16,
    "expansions": (2, 3),
}
_PROPOSING: dict[str, Any] = {"supernet_epochs": 2, "trials": 9, "trials_per_step": 3}
_OPTUNA: dict[str, Any] = {**_PROPOSING, "initial_trials": 4, "tries": 8}
QUICK: dict[str, dict[str, Any]] = {
    "bayesian": {**_PROPOSING, "initial_trials": 4},
    "darts": {"search_epochs": 4, "arch_lr": 0.1},
    "enas": {
        "warmup_epochs": 1,
        "search_epochs": 4,
        "controller_lr": 0.05,
        "hidden": 16,
        "archs_per_update": 2,
        "final_trials": 6,
    },
    "evolution": {**_PROPOSING, "population_size": 4, "tournament_size": 2},
    "local": _PROPOSING,
    "nsga2": {**_PROPOSING, "population_size": 4},
    "optuna-cmaes": _OPTUNA,
    "optuna-gp": {**_OPTUNA, "trials": 6},
    "optuna-nsga2": _OPTUNA,
    "optuna-tpe": _OPTUNA,
    "pc-darts": {"warmup_epochs": 1, "search_epochs": 3, "arch_lr": 0.1},
    "pnas": {**_PROPOSING, "beam": 4},
    "predictor": {**_PROPOSING, "initial_trials": 4},
    "proxyless": {"warmup_epochs": 1, "search_epochs": 4, "arch_lr": 0.1},
    "random": _PROPOSING,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "proxyless-reinforce": ("proxyless", {"arch_update": "reinforce", "archs_per_update": 2}),
}
"""Other forms of a strategy, that keep the same promises."""


def shorter(name: str) -> dict[str, Any]:
    """Settings for two steps on a supernet that is trained already."""
    most = {"trials": 2 * _PROPOSING["trials_per_step"], "search_epochs": 2}
    name, _ = VARIANTS.get(name, (name, {}))
    return {key: value for key, value in most.items() if key in QUICK[name]}


def small_space(**parameters: Any) -> SearchSpace:
    return make_space("mobile-small", **{**SMALL, **parameters})


def space_for(name: str, *, other: bool = False) -> SearchSpace:
    """A small space that a strategy can search, or another of its kind with other weights."""
    if name in ("darts", "pc-darts"):  # of edges, whose choices the others do not look at
        return OneCell(channels=16 if other else 8)
    return small_space(features=24) if other else small_space()


_COSTS: dict[str, CompiledCost] = {}


def milliseconds(space: SearchSpace) -> CompiledCost:
    """Multiply-accumulates at a rate of one million in a millisecond."""
    name = str(space.config)
    if name not in _COSTS:
        _COSTS[name] = counted_cost(space, "macs").affine(1e-6, 0.0)
    return _COSTS[name]


def bounds_of(space: SearchSpace, share: float | None, *others: Limit) -> Bounds:
    """A latency bound at a share of what the space can reach."""
    estimator = Estimator(milliseconds(space))
    reach = estimator.calibrated.range()
    at = None if share is None else reach.low + share * (reach.high - reach.low)
    return Bounds(lambda: estimator, at, others)


class Blobs:
    """Four classes of noisy blots, `batches_each` batches in each split.

    Their order depends on (seed, split, epoch) alone.
    """

    def __init__(self, *, seed: int = 0, batch_size: int = 16, batches_each: int = 3) -> None:
        generator = torch.Generator().manual_seed(seed)
        prototypes = torch.randn(4, 1, 12, 12, generator=generator)
        n = batches_each * batch_size
        targets = torch.arange(3 * n) % 4
        images = prototypes[targets] + 0.7 * torch.randn(3 * n, 1, 12, 12, generator=generator)
        self._parts: dict[Split, tuple[Tensor, Tensor]] = {
            "weights": (images[:n], targets[:n]),
            "arch": (images[n : 2 * n], targets[n : 2 * n]),
            "valid": (images[2 * n :], targets[2 * n :]),
        }
        self._seed = seed
        self._batch_size = batch_size

    def batches(self, split: Split, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        images, targets = self._parts[split]
        offset = {"weights": 0, "arch": 1, "valid": 2}[split]
        generator = torch.Generator().manual_seed(1000 * self._seed + 3 * epoch + offset)
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(order), self._batch_size):
            index = order[start : start + self._batch_size]
            yield images[index], targets[index]


def small_strategy(
    name: str,
    space: SearchSpace | None = None,
    *,
    seed: int = 0,
    share: float | None = 0.4,
    data: Any = None,
    supernet_weights: dict[str, Tensor] | None = None,
    **settings: Any,
) -> WeightSharing:
    name, form = VARIANTS.get(name, (name, {}))
    space = space or space_for(name)
    return make_strategy(
        name,
        space,
        task=Classification(),
        train_deployment=space.deployment,
        data=data or Blobs(batches_each=2),
        bounds=bounds_of(space, share),
        seed=seed,
        settings={**QUICK[name], **form, **settings},
        supernet_weights=supernet_weights,
    )


def run_to_the_end(strategy: WeightSharing) -> list[Trial]:
    trials: list[Trial] = []
    while not strategy.finished:
        trials += strategy.step()
    return trials
