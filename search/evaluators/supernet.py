"""Scores of architectures with the weights of a trained supernet."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

import torch
from torch import Tensor, nn

from nasdeploy.search.data import SearchData
from nasdeploy.search.space import Arch
from nasdeploy.search.strategy import Request
from nasdeploy.search.supernet import Supernet, recalibrate_batch_norm
from nasdeploy.search.supernet_training import SupernetSettings
from nasdeploy.search.task import Task, evaluate


class SupernetEvaluator:
    """An `Evaluator`: takes a path out, recalibrates its batch norm, scores it.

    The recalibration and the validation batches are the same for all architectures, and the
    supernet itself is not touched. Nothing about an evaluation is random.
    """

    def __init__(
        self, supernet: Supernet, *, task: Task, data: SearchData, settings: SupernetSettings
    ) -> None:
        self.supernet = supernet
        self.task = task
        self.data = data
        self.settings = settings
        self._recalibration: list[tuple[Tensor, Tensor]] = []

    def __call__(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[int, Mapping[str, float] | str]]:
        for request in requests:
            yield request.number, self._score(request)

    def network(self, arch: Arch) -> nn.Module:
        """The path of an architecture, its batch norm recalibrated."""
        if not self._recalibration:
            wanted = self.settings.recalibration_batches
            self._recalibration = list(islice(self.data.batches("weights", 0), wanted))
        network = self.supernet.path(arch)
        network.to(memory_format=torch.channels_last)
        recalibrate_batch_norm(network, self._recalibration)
        return network

    def _score(self, request: Request) -> Mapping[str, float] | str:
        network = self.network(request.arch)
        valid = islice(self.data.batches("valid", 0), self.settings.valid_batches)
        metrics = evaluate(network, valid, self.task)
        if not all(math.isfinite(value) for value in metrics.values()):
            return f"a metric is not finite: {metrics}"
        return metrics
