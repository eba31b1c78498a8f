"""Worker processes: who takes which task, and who stays."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from nasdeploy.export import workers
from nasdeploy.export.workers import Failed, Task, run_in_workers


def whose(seconds: float) -> int:
    """What a worker does here: say who it is, after a while."""
    time.sleep(seconds)
    return os.getpid()


def where(_: object) -> str:
    return str(Path.cwd())


def tasks(*kinds: str, seconds: float = 0.0) -> list[Task]:
    return [Task(pickle.dumps(seconds), kind) for kind in kinds]


def done(wanted: list[Task], scratch: Path, *, workers: int) -> list[Any]:
    """Who did each of the tasks."""
    by_index = dict(run_in_workers(whose, wanted, workers=workers, scratch=scratch))
    return [by_index[index] for index in range(len(wanted))]


@pytest.fixture(autouse=True)
def nobody_idle() -> None:
    workers.end_idle()


def test_who_is_idle_is_given_the_next_tasks(tmp_path: Path) -> None:
    first = done(tasks("a", "a", seconds=0.2), tmp_path, workers=2)
    assert len({*first, os.getpid()}) == 3
    assert set(done(tasks("a"), tmp_path, workers=1)) < set(first)
    assert set(done(tasks("a", "a", seconds=0.2), tmp_path, workers=2)) == set(first)


def test_paths_are_those_of_whoever_has_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path / "here", tmp_path / "there"):
        folder.mkdir()
        monkeypatch.chdir(folder)
        [(_, seen)] = run_in_workers(where, tasks("a"), workers=1, scratch=Path())
        assert seen == str(folder.resolve())


def test_a_task_is_given_to_whom_knows_its_kind(tmp_path: Path) -> None:
    a, b = done(tasks("a", "b", seconds=0.2), tmp_path, workers=2)
    assert done(tasks("b"), tmp_path, workers=1) == [b]
    assert done(tasks("a"), tmp_path, workers=1) == [a]
    # the order of the tasks would give b's to the worker that knows a
    assert done(tasks("b", "a", seconds=0.2), tmp_path, workers=2) == [b, a]


def test_who_was_left_in_the_middle_of_a_task_is_ended(tmp_path: Path) -> None:
    wanted = [*tasks("a"), *tasks("a", seconds=60.0)]
    results = run_in_workers(whose, wanted, workers=2, scratch=tmp_path)
    assert isinstance(results, Generator)
    index, quick = next(results)
    results.close()
    assert index == 0
    assert [worker.process.pid for worker in workers._idle] == [quick]


def test_who_died_is_replaced(tmp_path: Path) -> None:
    [(_, failed)] = run_in_workers(
        os._exit, [Task(pickle.dumps(3), "a")], workers=1, scratch=tmp_path
    )
    assert failed == Failed("WorkerDied", "its process ended with exit code 3")
    assert workers._idle == []
    assert len(done(tasks("a"), tmp_path, workers=1)) == 1
