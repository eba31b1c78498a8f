"""The loop that drives a strategy: budget, history, resuming, and the Pareto front."""

from __future__ import annotations

import csv
import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy import durable
from nasdeploy.errors import BadInput, OutOfResources, UsageError
from nasdeploy.search.loop import Budget, LoopResult, Progress, drive, read_history
from nasdeploy.search.pareto import non_dominated, pareto_front, write_pareto_csv
from nasdeploy.search.space import Arch
from nasdeploy.search.spaces import make_space
from nasdeploy.search.strategy import Strategy, Trial

SPACE = make_space("mobile-small")


@dataclass
class Walk:
    """Random architectures, a few in each step, drawn from a state that must be carried over."""

    seed: int = 0
    last: int | None = None
    break_at: tuple[int, BaseException] | None = None
    steps: int = 0
    number: int = 0
    rng: Random = field(init=False)

    def __post_init__(self) -> None:
        self.rng = Random(self.seed)

    def step(self) -> list[Trial]:
        if self.break_at and self.steps == self.break_at[0]:
            raise self.break_at[1]
        self.steps += 1
        return [self._trial() for _ in range(self.rng.randint(1, 3))]

    def _trial(self) -> Trial:
        self.number += 1
        accuracy = self.rng.random()
        metrics = {"accuracy": accuracy, "latency_ms": 1 + accuracy + self.rng.random()}
        return Trial(self.number - 1, SPACE.sample(self.rng), metrics)

    @property
    def finished(self) -> bool:
        return self.last is not None and self.steps >= self.last

    @property
    def progress(self) -> str:
        return f"step {self.steps}"

    def candidates(self, n: int, *, exclude: frozenset[Arch] = frozenset()) -> list[Arch]:
        return []

    def state_dict(self) -> dict[str, Any]:
        version, numbers, gauss = self.rng.getstate()
        rng = {"version": version, "numbers": torch.tensor(numbers), "gauss": gauss}
        return {"steps": self.steps, "number": self.number, "rng": rng}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps, self.number = state["steps"], state["number"]
        rng = state["rng"]
        self.rng.setstate((rng["version"], tuple(rng["numbers"].tolist()), rng["gauss"]))


def search(
    folder: Path, strategy: Strategy, budget: Budget, *, name: str = "walk", **more: Any
) -> LoopResult:
    return drive(
        strategy,
        budget=budget,
        history=folder / "history.jsonl",
        checkpoint=folder / "checkpoints" / "search.pt",
        identity={"strategy": name, "seed": 0},
        **more,
    )


def test_every_trial_is_in_the_history_and_progress_is_reported(tmp_path: Path) -> None:
    seen: list[Progress] = []
    result = search(tmp_path, Walk(), Budget(steps=5), report=seen.append)
    assert read_history(tmp_path / "history.jsonl") == list(result.history)
    assert [trial.number for trial in result.history] == list(range(len(result.history)))
    assert [trial for progress in seen for trial in progress.new] == list(result.history)
    assert [progress.share for progress in seen] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert seen[-1].eta_s == 0 and seen[-1].text == "step 5"
    assert not result.exhausted


def test_the_budget_ends_a_search_with_what_is_spent_first(tmp_path: Path) -> None:
    ticks = iter(range(1000))

    def clock() -> float:
        return 10.0 * next(ticks)

    by_trials = search(tmp_path / "a", Walk(), Budget(steps=100, trials=7))
    assert 7 <= len(by_trials.history) < 10
    by_time = search(tmp_path / "b", Walk(), Budget(steps=100, wall_s=35.0), clock=clock)
    assert (by_time.steps, by_time.elapsed_s) == (4, 40.0)
    done = search(tmp_path / "c", Walk(last=3), Budget(steps=100))
    assert done.steps == 3 and done.exhausted


def test_a_greater_budget_goes_on_where_the_smaller_one_ended(tmp_path: Path) -> None:
    whole = search(tmp_path / "whole", Walk(), Budget(steps=8))
    first = search(tmp_path / "parts", Walk(), Budget(steps=3))
    again = search(tmp_path / "parts", Walk(), Budget(steps=3))
    assert again == first
    parts = search(tmp_path / "parts", Walk(), Budget(steps=8))
    assert parts.history == whole.history and parts.steps == 8


@pytest.mark.parametrize("interruption", [KeyboardInterrupt(), RuntimeError("out of luck")])
def test_an_interruption_leaves_the_last_whole_step_and_loses_nothing(
    tmp_path: Path, interruption: BaseException
) -> None:
    with pytest.raises(type(interruption)):
        search(tmp_path, Walk(break_at=(2, interruption)), Budget(steps=6))
    kept = read_history(tmp_path / "history.jsonl")
    resumed = search(tmp_path, Walk(), Budget(steps=6))
    whole = search(tmp_path / "whole", Walk(), Budget(steps=6))
    assert resumed.history == whole.history
    assert list(whole.history[: len(kept)]) == kept and kept


def test_trials_of_a_step_that_was_cut_off_are_taken_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = durable.Journal.append

    def interrupted(journal: durable.Journal, entry: dict[str, Any]) -> None:
        append(journal, entry)
        if entry["trial"] == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(durable.Journal, "append", interrupted)
        search(tmp_path, Walk(), Budget(steps=6))
    assert len(read_history(tmp_path / "history.jsonl")) < 5
    resumed = search(tmp_path, Walk(), Budget(steps=6))
    assert resumed.history == search(tmp_path / "whole", Walk(), Budget(steps=6)).history


def test_kills_at_any_moment_change_nothing(tmp_path: Path) -> None:
    # the n-th flush to the disk kills: before a trial counts, between trials, inside a checkpoint
    script = (
        "import os, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]);"
        "import test_loop as t; fsync, calls = os.fsync, []\n"
        "def killing(handle):\n"
        "    calls.append(handle)\n"
        "    if len(calls) == at: t.kill()\n"
        "    fsync(handle)\n"
        "for at in (7, 3):\n"
        "    if child := os.fork():\n"
        "        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)\n"
        "    else:\n"
        "        os.fsync = killing\n"
        "        t.search(Path(sys.argv[2]), t.Walk(), t.Budget(steps=6))\n"
        "        os._exit(0)"
    )
    whole = search(tmp_path / "whole", Walk(), Budget(steps=6))
    argv = [sys.executable, "-c", script, str(Path(__file__).parent), str(tmp_path)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert ended.stdout.split() == 2 * [str(-signal.SIGKILL)]
    resumed = search(tmp_path, Walk(), Budget(steps=6))
    assert resumed.history == whole.history
    assert read_history(tmp_path / "history.jsonl") == list(whole.history)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_another_search_or_a_damaged_file_is_not_gone_on_from(tmp_path: Path) -> None:
    search(tmp_path, Walk(), Budget(steps=3))
    with pytest.raises(UsageError, match="strategy was 'walk' and is now 'run'"):
        search(tmp_path, Walk(), Budget(steps=6), name="run")
    durable.Journal(tmp_path / "history.jsonl").cut(1)
    with pytest.raises(BadInput, match=r"history\.jsonl has 1 trials and .* speaks of"):
        search(tmp_path, Walk(), Budget(steps=6))
    (tmp_path / "checkpoints" / "search.pt").write_text("nothing")
    with pytest.raises(BadInput, match="not a readable checkpoint"):
        search(tmp_path, Walk(), Budget(steps=6))


def test_a_full_disk_is_named_and_costs_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search(tmp_path, Walk(), Budget(steps=3))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OutOfResources, match="disk is full"):
        patch.setattr(os, "fsync", full)
        search(tmp_path, Walk(), Budget(steps=6))
    resumed = search(tmp_path, Walk(), Budget(steps=6))
    assert resumed.history == search(tmp_path / "whole", Walk(), Budget(steps=6)).history


def test_a_budget_limits_something() -> None:
    with pytest.raises(UsageError, match="at least one of steps, trials, wall_s"):
        Budget()
    for nothing in (0, -1, float("nan")):
        with pytest.raises(UsageError, match="above 0"):
            Budget(wall_s=nothing)


# the front


def beaten_by_none(rows: np.ndarray[Any, Any]) -> list[bool]:
    """Brute force, from the definition."""
    return [not any((other <= row).all() and (other < row).any() for other in rows) for row in rows]


@given(
    st.integers(1, 3).flatmap(
        lambda m: st.lists(
            st.lists(st.integers(0, 4), min_size=m, max_size=m), min_size=1, max_size=30
        )
    )
)
def test_the_front_is_what_brute_force_finds(rows: list[list[int]]) -> None:
    costs = np.array(rows, dtype=float)
    assert non_dominated(costs).tolist() == beaten_by_none(costs)


def test_rounding_does_not_let_a_beaten_row_onto_the_front() -> None:
    # both sums round to 1e17, and the second row beats the first
    costs = np.array([[1e17, 2.0], [1e17, 1.0]])
    assert non_dominated(costs).tolist() == [False, True]
    with pytest.raises(UsageError, match="finite"):
        non_dominated(np.array([[np.nan, 1.0]]))


def test_the_front_takes_the_latest_trial_of_an_architecture_and_no_failures() -> None:
    senses: Any = {"accuracy": "max", "latency_ms": "min"}
    trials = [
        Trial(0, (0,), {"accuracy": 0.9, "latency_ms": 5.0}),
        Trial(1, (1,), {"accuracy": 0.5, "latency_ms": 2.0}),
        Trial(2, (2,), {"accuracy": 0.4, "latency_ms": 3.0}),
        Trial(3, (0,), {"accuracy": 0.8, "latency_ms": 5.0}),
        Trial(4, (3,), failure="diverged"),
        Trial(5, (4,), {"accuracy": float("nan"), "latency_ms": 1.0}),
        Trial(6, (5,), {"accuracy": 0.85, "latency_ms": 5.5}),
    ]
    assert [trial.number for trial in pareto_front(trials, senses)] == [1, 3, 6]
    assert pareto_front([], senses) == []


def test_the_front_is_written_with_its_metrics_and_choices(tmp_path: Path) -> None:
    result = search(tmp_path, Walk(), Budget(steps=20))
    path = tmp_path / "pareto.csv"
    senses: Any = {"accuracy": "max", "latency_ms": "min"}
    front = write_pareto_csv(path, result.history, SPACE, senses)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["trial"]) for row in rows] == [trial.number for trial in front]
    assert [float(row["latency_ms"]) for row in rows] == sorted(
        trial.metrics["latency_ms"] for trial in front
    )
    decision = SPACE.decisions[-1]
    assert rows[0][decision.label] == decision.choices[front[0].arch[-1]]
