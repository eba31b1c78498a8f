"""Our own steps, as the strategies take them, for `supernet_step.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from plain_steps import drawn, images, path_space
from torch import Tensor

from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.latency_tables.estimate import Estimator
from nasdeploy.search.counters import counted_cost
from nasdeploy.search.data import Split
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import SearchSpace
from nasdeploy.search.spaces import make_space
from nasdeploy.search.strategies import STRATEGIES, make_settings
from nasdeploy.search.supernet_training import SupernetSettings, SupernetTrainer
from nasdeploy.search.task import Classification


class OneBatch:
    """The same images for every split."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def batches(self, split: Split, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.x, self.y


def step_of(case: str) -> Callable[[], None]:
    """One step of a case of `supernet_step.py`."""
    if "darts" in case:
        return _relaxed(case)
    return _gated() if case == "proxyless-arch" else _paths(case)


def _strategy(name: str, space: SearchSpace, x: Tensor, y: Tensor, **settings: Any) -> Any:
    cost: CompiledCost = counted_cost(space, "params")
    entry = STRATEGIES[name]
    assert entry.make is not None
    return entry.make(
        space,
        task=Classification(),
        train_deployment=space.deployment,
        data=OneBatch(x, y),
        bounds=Bounds(lambda: Estimator(cost), None),
        seed=0,
        settings=make_settings(name, settings).own,
        supernet_weights=None,
    )


def _relaxed(case: str) -> Callable[[], None]:
    space = make_space("darts", channels=16, layers=8)
    x, y = images(16 if case == "darts-second-order" else 64, 32)
    settings = {} if case == "pc-darts" else {"order": 2 if "second" in case else 1}
    search = _strategy("pc-darts" if case == "pc-darts" else "darts", space, x, y, **settings)
    search._trainer.start_epoch(0)
    x = x.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with search.supernet.mixed_by(search.relaxation):
            search._arch_step((x, y), (x, y), 0, 0)
            search._weight_step(x, y, 0, 0)

    return step


def _gated() -> Callable[[], None]:
    space, batch, size = path_space("proxyless-arch")
    x, y = images(batch, size)
    search = _strategy("proxyless", space, x, y)
    search._trainer.start_epoch(0)
    x = x.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        for number, _ in enumerate(drawn(space)):
            search._gate_step(x, y, 0, number)

    return step


def _paths(case: str) -> Callable[[], None]:
    space, batch, size = path_space(case)
    x, y = images(batch, size)
    trainer = SupernetTrainer(
        space,
        task=Classification(),
        deployment=space.deployment,
        data=OneBatch(x, y),
        settings=SupernetSettings(),
        epochs=1,
        seed=0,
    )
    trainer.start_epoch(0)
    x = x.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        for number, arch in enumerate(drawn(space)):
            trainer.step(arch, x, y, epoch=0, number=number)

    return step
