"""Baselines that are trained beside the search and what comes after it."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import CONFIG

from nasdeploy.durable import read_jsonl
from nasdeploy.pipeline.config import make_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.flow import load, make_context, space_for
from nasdeploy.pipeline.run_folder import RunFolder
from nasdeploy.pipeline.stages.baselines import (
    TrainedBeside,
    baseline_jobs,
    beside_others,
    train_baselines,
)
from nasdeploy.pipeline.stages.train import train_winner
from nasdeploy.pipeline.stages.training_jobs import TrainJob, result_of
from nasdeploy.search.space import Arch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        len(os.sched_getaffinity(0)) == 1 or torch.cuda.is_available(),
        reason="nothing is trained beside the rest on one core, or beside a GPU",
    ),
]


class Small:
    """Two random networks to be trained for a few epochs, on the small space."""

    def __init__(self, folder: Path, *, epochs: int = 4) -> None:
        train = {"settings": {"epochs": epochs}, "workers": 2, "random_baselines": 2}
        config = make_config({**CONFIG, "train": train}, source="the test")
        self.context = make_context(config, Console(quiet=True))
        self.data = load(config)
        self.space = space_for(config, self.data)
        self.run = RunFolder(folder)
        rest = len(self.space.decisions) - 1
        self.archs: list[Arch] = [(choice, *[choice] * rest) for choice in (0, 1)]

    def jobs(self) -> list[TrainJob]:
        return baseline_jobs(self.context, self.run, self.space, self.data, self.archs)

    @contextmanager
    def beside(self, epochs: int) -> Iterator[TrainedBeside]:
        """In training, with so many epochs of the first one behind it."""
        deadline = time.monotonic() + 120
        with beside_others(self.context, self.jobs) as beside, beside.working() as cores:
            assert cores == self.jobs()[0].threads
            while len(read_jsonl(self.jobs()[0].epochs)) < epochs:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            yield beside

    def results(self, beside: TrainedBeside | None = None) -> dict[str, Any]:
        return train_baselines(self.context, self.run, self.data, self.jobs(), beside)

    def states(self) -> list[int]:
        return [len(read_jsonl(job.epochs)) for job in self.jobs()]


def test_what_is_trained_beside_changes_no_bit(folder: Path) -> None:
    small, plain = Small(folder / "beside"), Small(folder / "plain")
    with small.beside(1) as beside:
        found = small.results(beside)
    expected = plain.results()
    assert list(found) == ["random-1", "random-2"]
    for one, two in zip(small.jobs(), plain.jobs(), strict=True):
        assert found[one.name]["epochs"] == 4
        assert found[one.name]["test"] == expected[one.name]["test"]
        assert one.weights.read_bytes() == two.weights.read_bytes()


def test_the_last_one_is_waited_for_where_it_is_trained(folder: Path) -> None:
    small = Small(folder)
    first, second = small.jobs()
    deadline = time.monotonic() + 60
    with small.beside(4) as beside:
        while result_of(first) is None:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        watched: list[int] = []
        beside.wait_for_last_of([first, second], lambda: watched.append(small.states()[1]))
    assert result_of(second) is not None
    assert watched == sorted(watched)


def test_they_stand_still_while_something_is_measured_and_then_go_on(folder: Path) -> None:
    small = Small(folder, epochs=40)
    with small.beside(1) as beside:
        with beside.standing_still():
            time.sleep(0.2)  # what was being written is
            before = small.states()
            time.sleep(1.5)
            assert small.states() == before
        deadline = time.monotonic() + 60
        while small.states() == before:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_they_end_with_whoever_began_them_even_while_they_stand_still(folder: Path) -> None:
    small = Small(folder, epochs=40)
    before = set(multiprocessing.active_children())
    with pytest.raises(RuntimeError), small.beside(1) as beside, beside.standing_still():
        assert set(multiprocessing.active_children()) > before
        raise RuntimeError
    assert set(multiprocessing.active_children()) == before


def test_they_are_trained_with_the_winner_where_they_were_not_before(folder: Path) -> None:
    small = Small(folder, epochs=1)
    winner = {"arch": [1, 0], "space": dict(small.space.config)}
    train_winner(small.context, small.run, small.data, winner, small.jobs())
    trained = {job.name: result_of(job) for job in small.jobs()}
    assert None not in trained.values()
    assert small.results() == trained
    assert set(small.run.manifest["stages"]) == {"train", "baselines"}
