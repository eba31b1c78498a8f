"""Accuracies that others measured: a published table in place of training.

NAS-Bench-201 (Dong and Yang, ICLR 2020, arXiv:2001.00326) trained each of its 15,625 cells;
HW-NAS-Bench and LatBench measured their latency on phones and other devices. The numbers lie in
``search/spaces/data/nasbench201.npz``, with their sources and licences beside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np
import numpy.typing as npt

from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.search.space import Arch
from nasdeploy.search.spaces.nasbench201 import EDGES, OPERATORS
from nasdeploy.search.strategy import Request

Split = Literal["valid", "test"]
FloatArray = npt.NDArray[np.float64]

_DATASETS = {"cifar10": "c10", "cifar100": "c100"}
_SPLITS: dict[Split, str] = {"valid": "val", "test": "test"}
_SCALE = 1e4  # four digits behind the point, kept as whole numbers


@dataclass(frozen=True, eq=False)
class NasBench201Table:
    """The published numbers of all cells, in the order of the space's row-major enumeration.

    Attributes:
        accuracies: (15625,) percent, by (data set, split, epochs).
        latencies_ms: (15625,) milliseconds, by device.
        params: (15625,) parameters, as published to four digits of a million.
    """

    accuracies: Mapping[tuple[str, Split, int], FloatArray]
    latencies_ms: Mapping[str, FloatArray]
    params: FloatArray

    def accuracy(self, dataset: str, split: Split, *, epochs: int = 200) -> FloatArray:
        """(15625,) percent; `UsageError` for a training that was not published."""
        key = (dataset, split, epochs)
        if key not in self.accuracies:
            known = ", ".join(f"{d} {s} {e}" for d, s, e in sorted(self.accuracies))
            raise UsageError(
                f"nasbench201 has no accuracy of {dataset} {split} after {epochs} epochs; known: "
                f"{known}."
            )
        return self.accuracies[key]

    def latency_ms(self, device: str) -> FloatArray:
        """(15625,) milliseconds; `UnknownName` for a device that was not measured."""
        if device not in self.latencies_ms:
            raise UnknownName("device of nasbench201", device, self.latencies_ms)
        return self.latencies_ms[device]

    @staticmethod
    def index(arch: Arch) -> int:
        """The row of a cell."""
        row = 0
        for choice in arch:
            row = row * len(OPERATORS) + choice
        return row

    @staticmethod
    def arch(index: int) -> Arch:
        """The cell of a row."""
        choices = []
        for _ in EDGES:
            index, choice = divmod(index, len(OPERATORS))
            choices.append(choice)
        return tuple(reversed(choices))


@cache
def load_nasbench201() -> NasBench201Table:
    """The table that ships."""
    source = files("nasdeploy.search.spaces") / "data" / "nasbench201.npz"
    with source.open("rb") as file, np.load(file) as stored:
        columns = {name: stored[name] / _SCALE for name in stored.files}
    accuracies: dict[tuple[str, Split, int], FloatArray] = {}
    for dataset, short in _DATASETS.items():
        for split, part in _SPLITS.items():
            for epochs in (12, 200):
                accuracies[dataset, split, epochs] = columns.pop(f"{short}_{part}{epochs}")
    params = columns.pop("params") * 1e6
    for column in (*accuracies.values(), *columns.values(), params):
        column.flags.writeable = False
    return NasBench201Table(accuracies, columns, params)


class TabularEvaluator:
    """An `Evaluator` that looks up: ``accuracy`` (0 to 1) of each cell, and latency if asked.

    Args:
        table: Of NAS-Bench-201.
        dataset: ``"cifar10"`` or ``"cifar100"``.
        split: What a search may see is ``"valid"``.
        epochs: How long the published networks were trained, 12 or 200.
        device: Adds ``latency_ms`` as measured there.
    """

    def __init__(
        self,
        table: NasBench201Table,
        *,
        dataset: str = "cifar10",
        split: Split = "valid",
        epochs: int = 200,
        device: str | None = None,
    ) -> None:
        columns = {"accuracy": table.accuracy(dataset, split, epochs=epochs) / 100}
        if device is not None:
            columns["latency_ms"] = table.latency_ms(device)
        self.table = table
        self._columns = columns

    def __call__(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[int, Mapping[str, float] | str]]:
        for request in requests:
            row = self.table.index(request.arch)
            yield (
                request.number,
                {name: float(column[row]) for name, column in self._columns.items()},
            )
