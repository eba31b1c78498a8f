"""Train a supernet one path at a time, then score what a sampler proposes with its weights.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling" (ECCV 2020,
arXiv:1904.00420): section 3.3 trains a path drawn evenly for each batch, section 3.4 searches on
the weights after recalibrating batch norm. What proposes is not part of it: any `Sampler` does.

Where we differ: paths are drawn evenly over all architectures, also those that break the bounds
(SPOS drops them), so that the same supernet serves another bound or another device.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from torch import Tensor

from nasdeploy.search.data import SearchData
from nasdeploy.search.evaluators.supernet import SupernetEvaluator
from nasdeploy.search.space import Deployment, SearchSpace
from nasdeploy.search.strategy import Request
from nasdeploy.search.supernet_training import SupernetSettings, SupernetTrainer, require
from nasdeploy.search.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class OneShotSettings(SupernetSettings):
    """
    Attributes:
        supernet_epochs: Over both halves of the training data; none with a trained supernet.
    """

    supernet_epochs: int = 10

    def __post_init__(self) -> None:
        super(OneShotSettings, self).__post_init__()
        require("at least 1", {"supernet_epochs": self.supernet_epochs}, lambda value: value >= 1)


class OneShotEvaluator:
    """An `Evaluator` that is prepared by training a supernet, an epoch a step."""

    def __init__(
        self,
        space: SearchSpace,
        *,
        task: Task,
        train_deployment: Deployment,
        data: SearchData,
        seed: int,
        settings: OneShotSettings,
        supernet_weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.space = space
        self.epochs = settings.supernet_epochs
        self._trainer = SupernetTrainer(
            space,
            task=task,
            deployment=train_deployment,
            data=data,
            settings=settings,
            epochs=settings.supernet_epochs,
            seed=seed,
            weights=supernet_weights,
        )
        self._score = SupernetEvaluator(
            self._trainer.supernet, task=task, data=data, settings=settings
        )
        self._rng = Random(seed)
        self._epoch = self.epochs if supernet_weights is not None else 0

    @property
    def steps_left(self) -> int:
        return self.epochs - self._epoch

    def prepare(self) -> str:
        """An epoch over both halves of the training data."""
        self._trainer.start_epoch(self._epoch)
        losses: list[float] = []
        for split in ("weights", "arch"):
            for x, y in self._trainer.batches(split, self._epoch):
                arch = self.space.sample(self._rng)
                losses.append(self._trainer.step(arch, x, y, epoch=self._epoch, number=len(losses)))
        self._epoch += 1
        mean = sum(losses) / max(len(losses), 1)
        return f"supernet {self._epoch}/{self.epochs}: loss {mean:.3f}"

    def __call__(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[int, Mapping[str, float] | str]]:
        return self._score(requests)

    def supernet_weights(self) -> dict[str, Tensor]:
        """The trained supernet, for another search of the same space and shape."""
        return self._trainer.supernet.state_dict()

    def state_dict(self) -> dict[str, Any]:
        trainer = self._trainer.state_dict()
        return {"trainer": trainer, "rng": self._rng.getstate(), "epoch": self._epoch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainer.load_state_dict(state["trainer"])
        self._rng.setstate(state["rng"])
        self._epoch = state["epoch"]
