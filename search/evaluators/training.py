"""Short training in worker processes, and poor candidates are stopped early.

Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and Hyperparameter Optimization"
(AISTATS 2016, arXiv:1502.07943), successive halving: all of a batch are trained for
``shortest_epochs``, the best of them for ``halving`` times as long in all, and so on up to
``longest_epochs``.

Where we differ: the learning rate follows one cosine over ``longest_epochs``, so that who goes on
is not trained anew; and with fewer than ``halving`` left nobody is stopped. A network that was
stopped has the accuracy that it had then, and says after how many epochs (``epochs``).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
from torch import Tensor

from nasdeploy.search.data import SearchData
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.strategy import Request
from nasdeploy.search.supernet_training import require
from nasdeploy.search.task import Task, evaluate
from nasdeploy.seeds import derived_seed


@dataclass(frozen=True, slots=True, kw_only=True)
class ShortTrainingSettings:
    """
    Attributes:
        shortest_epochs, longest_epochs: Over both halves of the training data.
        halving: One in so many goes on, for so many times as long.
        training_lr: Highest rate of SGD with momentum.
        workers: Processes, a thread each; all cores if None. The results do not depend on it.
    """

    shortest_epochs: int = 1
    longest_epochs: int = 4
    halving: int = 2
    training_lr: float = 0.05
    workers: int | None = None

    def __post_init__(self) -> None:
        counts = {
            "shortest_epochs": self.shortest_epochs,
            "workers": 1 if self.workers is None else self.workers,
        }
        require("at least 1", counts, lambda value: value >= 1)
        require("at least 2", {"halving": self.halving}, lambda value: value >= 2)
        require("above 0", {"training_lr": self.training_lr}, lambda value: value > 0)
        require(
            f"at least shortest_epochs ({self.shortest_epochs})",
            {"longest_epochs": self.longest_epochs},
            lambda value: value >= self.shortest_epochs,
        )

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs, in all, at which it is decided who goes on; the last is the longest."""
        rungs = [self.shortest_epochs]
        while rungs[-1] < self.longest_epochs:
            rungs.append(min(rungs[-1] * self.halving, self.longest_epochs))
        return tuple(rungs)


@dataclass(frozen=True)
class _Job:
    """What a worker needs of a network: where it stands, and how far it goes."""

    arch: Arch
    seed: int
    start: int
    end: int
    state: Mapping[str, Any] | None


@dataclass(frozen=True)
class _Bench:
    """What all trainings of a search have in common; a worker is handed it once."""

    space: SearchSpace
    task: Task
    deployment: Deployment
    data: SearchData
    settings: ShortTrainingSettings

    def train(self, job: _Job) -> tuple[dict[str, Any], dict[str, float]] | str:
        """State and metrics after it; a text where the loss is not finite."""
        with torch.random.fork_rng():
            torch.manual_seed(job.seed)
            model = self.space.build(job.arch, task=self.task, deployment=self.deployment)
            model.to(memory_format=torch.channels_last)
            rate = self.settings.training_lr
            optimizer = torch.optim.SGD(
                model.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=5e-4
            )
            if job.state is not None:
                model.load_state_dict(job.state["model"])
                optimizer.load_state_dict(job.state["optimizer"])
            for epoch in range(job.start, job.end):
                share = (epoch + 0.5) / self.settings.longest_epochs
                optimizer.param_groups[0]["lr"] = rate * 0.5 * (1 + math.cos(math.pi * share))
                torch.manual_seed(derived_seed(job.seed, "epoch", epoch))
                model.train()
                for split in ("weights", "arch"):
                    for x, y in self.data.batches(split, epoch):
                        loss = self._step(model, optimizer, x, y)
                        if not math.isfinite(loss):
                            return f"the loss is {loss} in epoch {epoch}"
            metrics = evaluate(model, self.data.batches("valid", 0), self.task)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        return state, {**metrics, "epochs": float(job.end)}

    def _step(
        self, model: torch.nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor
    ) -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = self.task.loss(model(x.to(memory_format=torch.channels_last)), y)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        return float(loss.detach())


def trained_alone(
    space: SearchSpace,
    arch: Arch,
    *,
    task: Task,
    deployment: Deployment,
    data: SearchData,
    epochs: int,
    seed: int,
) -> Mapping[str, float] | str:
    """Metrics of one network after a short training in this process; a text if it diverged."""
    settings = ShortTrainingSettings(shortest_epochs=epochs, longest_epochs=epochs)
    outcome = _Bench(space, task, deployment, data, settings).train(
        _Job(arch, seed, 0, epochs, None)
    )
    return outcome if isinstance(outcome, str) else outcome[1]


_bench: _Bench | None = None


def _begin(bench: _Bench) -> None:
    global _bench
    torch.set_num_threads(1)  # the sums of a convolution depend on how many share it
    _bench = bench


def _train(job: _Job) -> tuple[dict[str, Any], dict[str, float]] | str:
    assert _bench is not None
    return _bench.train(job)


class ShortTraining:
    """An `Evaluator`. Processes are started for the first batch, and end with the search's own."""

    def __init__(
        self,
        space: SearchSpace,
        *,
        task: Task,
        deployment: Deployment,
        data: SearchData,
        settings: ShortTrainingSettings,
    ) -> None:
        self.settings = settings
        self._bench = _Bench(space, task, deployment, data, settings)
        self._workers: ProcessPoolExecutor | None = None

    def __call__(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[int, Mapping[str, float] | str]]:
        """Of equal accuracies at a rung, the one that was asked for first goes on."""
        running = {request.number: request for request in requests}
        states: dict[int, dict[str, Any]] = {}
        start = 0
        for end in self.settings.rungs:
            jobs = [
                _Job(r.arch, derived_seed(r.seed, "trial", r.number), start, end, states.get(n))
                for n, r in running.items()
            ]
            metrics: dict[int, dict[str, float]] = {}
            for number, outcome in zip(list(running), self._pool().map(_train, jobs), strict=True):
                if isinstance(outcome, str):
                    del running[number]
                    yield number, outcome
                else:
                    states[number], metrics[number] = outcome
            kept = len(metrics)
            if end < self.settings.longest_epochs and kept >= self.settings.halving:
                kept = math.ceil(kept / self.settings.halving)
            if end == self.settings.longest_epochs:
                kept = 0
            metric = self._bench.task.metric
            order = sorted(metrics, key=lambda number: -metrics[number][metric])
            for number in sorted(order[kept:]):
                del running[number], states[number]
                yield number, metrics[number]
            start = end

    def _pool(self) -> ProcessPoolExecutor:
        if self._workers is None:
            self._workers = ProcessPoolExecutor(
                self.settings.workers or os.cpu_count() or 1,
                mp_context=get_context("spawn"),
                initializer=_begin,
                initargs=(self._bench,),
            )
        return self._workers

    def close(self) -> None:
        """End the processes; the next batch would start others."""
        if self._workers is not None:
            self._workers.shutdown()
            self._workers = None
