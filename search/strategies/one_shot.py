"""Train a supernet one path at a time, then score what a sampler proposes with its weights.

Guo et al., "Single Path One-Shot Neural Architecture Search with Uniform Sampling" (ECCV 2020,
arXiv:1904.00420): section 3.3 trains a path drawn evenly for each batch, section 3.4 searches on
the weights after recalibrating batch norm. What proposes is not part of it: any `Sampler` does.

Where we differ: paths are drawn evenly over all architectures, also those that break the bounds
(SPOS drops them), so that the same supernet serves another bound or another device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from torch import Tensor

from nasdeploy.latency_tables.optimum import best_within, check_limits
from nasdeploy.search.data import SearchData
from nasdeploy.search.evaluators.supernet import SupernetEvaluator
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.strategy import Request, Sampler, Trial
from nasdeploy.search.supernet_training import SupernetSettings, SupernetTrainer, require
from nasdeploy.search.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class OneShotSettings(SupernetSettings):
    """
    Attributes:
        supernet_epochs: Over both halves of the training data; none with a trained supernet.
        trials: Architectures to score.
        trials_per_step: Proposed together; the sampler learns of them together.
        tries: Draws before an admissible architecture is found exactly.
    """

    supernet_epochs: int = 10
    trials: int = 200
    trials_per_step: int = 10
    tries: int = 64

    def __post_init__(self) -> None:
        super(OneShotSettings, self).__post_init__()
        counts = {
            "supernet_epochs": self.supernet_epochs,
            "trials": self.trials,
            "trials_per_step": self.trials_per_step,
            "tries": self.tries,
        }
        require("at least 1", counts, lambda value: value >= 1)


class OneShot:
    """A `Strategy`; a step is an epoch of the supernet, later a batch of trials.

    Args:
        sampler: Proposes architectures within the bounds that it did not propose before.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: Sampler,
        *,
        task: Task,
        train_deployment: Deployment,
        data: SearchData,
        bounds: Bounds,
        seed: int,
        settings: OneShotSettings,
        supernet_weights: Mapping[str, Tensor] | None = None,
    ) -> None:
        check_limits(bounds.limits())
        self.space = space
        self.sampler = sampler
        self.task = task
        self.bounds = bounds
        self.seed = seed
        self.settings = settings
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
        self._evaluator = SupernetEvaluator(
            self._trainer.supernet, task=task, data=data, settings=settings
        )
        self._rng = Random(seed)
        self._first_epoch = settings.supernet_epochs if supernet_weights is not None else 0
        self._epoch = self._first_epoch
        self._scored: dict[Arch, float] = {}
        self._trials = 0
        self._exhausted = False
        self._progress = "not started"

    @property
    def finished(self) -> bool:
        return self._exhausted or self._trials >= self.settings.trials

    @property
    def total_steps(self) -> int:
        epochs = self.settings.supernet_epochs - self._first_epoch
        return epochs + math.ceil(self.settings.trials / self.settings.trials_per_step)

    @property
    def progress(self) -> str:
        return self._progress

    def step(self) -> list[Trial]:
        """An epoch of the supernet without a trial, or a batch of trials on it."""
        if self.finished:
            return []
        if self._epoch < self.settings.supernet_epochs:
            self._train_supernet()
            return []
        wanted = min(self.settings.trials_per_step, self.settings.trials - self._trials)
        archs = self.sampler.ask(wanted)
        self._exhausted = len(archs) < wanted
        trials = self._evaluate(archs)
        self.sampler.tell(trials)
        self._trials += len(trials)
        best = max(self._scored.values(), default=math.nan)
        self._progress = (
            f"trial {self._trials}/{self.settings.trials}: best {self.task.metric} {best:.3f}"
        )
        return trials

    def _train_supernet(self) -> None:
        self._trainer.start_epoch(self._epoch)
        losses: list[float] = []
        for split in ("weights", "arch"):
            for x, y in self._trainer.batches(split, self._epoch):
                arch = self.space.sample(self._rng)
                losses.append(self._trainer.step(arch, x, y, epoch=self._epoch, number=len(losses)))
        self._epoch += 1
        mean = sum(losses) / max(len(losses), 1)
        self._progress = f"supernet {self._epoch}/{self.settings.supernet_epochs}: loss {mean:.3f}"

    def _evaluate(self, archs: list[Arch]) -> list[Trial]:
        requests = [
            Request(number, arch, self.seed) for number, arch in enumerate(archs, self._trials)
        ]
        scored = dict(self._evaluator(requests))
        latency = self.bounds.estimator().calibrated
        trials = []
        for request in requests:
            outcome = scored[request.number]
            if isinstance(outcome, str):
                trials.append(Trial(request.number, request.arch, failure=outcome))
                continue
            others = {limit.name: limit.cost.of(request.arch) for limit in self.bounds.others}
            metrics = {**outcome, "latency_ms": latency.of(request.arch), **others}
            self._scored[request.arch] = metrics[self.task.metric]
            trials.append(Trial(request.number, request.arch, metrics))
        return trials

    def candidates(self, n: int, *, exclude: frozenset[Arch] = frozenset()) -> list[Arch]:
        """The best scored within every bound on the current estimates.

        Where fewer than `n` of the scored ones hold the bounds, the rest has the highest sum of its
        choices' mean scores, found exactly.
        """
        scored = [arch for arch in self._scored if arch not in exclude]
        if scored:
            admitted = self.bounds.admits(scored)
            scored = [arch for arch, held in zip(scored, admitted, strict=True) if held]
        # the sort is stable: of equals, the one that was tried first
        best = sorted(scored, key=lambda arch: -self._scored[arch])[:n]
        if len(best) < n:
            known = exclude.union(best)
            limits = self.bounds.limits()
            best += best_within(self._mean_scores(), limits, n=n - len(best), exclude=known)
        return best

    def _mean_scores(self) -> list[np.ndarray]:
        overall = float(np.mean(list(self._scored.values()))) if self._scored else 0.0
        means = []
        for index, decision in enumerate(self.space.decisions):
            of_choice: list[list[float]] = [[overall] for _ in decision.choices]
            for arch, score in self._scored.items():
                of_choice[arch[index]].append(score)
            means.append(np.array([float(np.mean(scores)) for scores in of_choice]))
        return means

    def supernet_weights(self) -> dict[str, Tensor]:
        """The trained supernet, for another search of the same space and shape."""
        return self._trainer.supernet.state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {
            "trainer": self._trainer.state_dict(),
            "sampler": self.sampler.state_dict(),
            "scored": [[list(arch), score] for arch, score in self._scored.items()],
            "rng": self._rng.getstate(),
            "epoch": self._epoch,
            "trials": self._trials,
            "exhausted": self._exhausted,
            "progress": self._progress,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainer.load_state_dict(state["trainer"])
        self.sampler.load_state_dict(state["sampler"])
        self._scored = {tuple(arch): score for arch, score in state["scored"]}
        self._rng.setstate(state["rng"])
        self._epoch = state["epoch"]
        self._trials = state["trials"]
        self._exhausted = state["exhausted"]
        self._progress = state["progress"]
