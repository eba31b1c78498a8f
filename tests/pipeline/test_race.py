"""Finalists that are trained a little to choose one of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import CONFIG

from nasdeploy.durable import read_jsonl
from nasdeploy.errors import TrainingDiverged
from nasdeploy.latency_tables.optimum import Limit
from nasdeploy.pipeline.config import make_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.data import DataSet
from nasdeploy.pipeline.flow import load, make_context, space_for
from nasdeploy.pipeline.run_folder import RunFolder
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.race import Finalist, Round, epochs_of, race, rounds_of, unlike
from nasdeploy.pipeline.stages.search import next_candidate
from nasdeploy.pipeline.stages.train import train_winner
from nasdeploy.pipeline.stages.training_jobs import TrainJob
from nasdeploy.search.counters import counted_cost
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, SearchSpace

Outcome = Callable[[TrainJob], dict[str, Any]]


class Small:
    """What a race needs, on the small space."""

    def __init__(self, folder: Path, **train: Any) -> None:
        values = {**CONFIG, "train": {**CONFIG["train"], **train}}
        self.config = make_config(values, source="the test")
        self.context: Context = make_context(self.config, Console(quiet=True))
        self.data: DataSet = load(self.config)
        self.space: SearchSpace = space_for(self.config, self.data)
        self.folder = folder

    def race(self, archs: list[Arch], name: str = "run") -> list[Finalist]:
        run = RunFolder(self.folder / name)
        return race(self.context, run, self.space, self.data, archs)


@pytest.fixture
def small(folder: Path) -> Small:
    return Small(folder)


def fake(monkeypatch: pytest.MonkeyPatch, outcome: Outcome) -> list[tuple[Arch, int | None]]:
    """No network is trained; returns what was asked for, as it grows."""
    asked: list[tuple[Arch, int | None]] = []

    def finalist(job: TrainJob) -> dict[str, Any]:
        asked.append((job.arch, job.until))
        return outcome(job)

    monkeypatch.setattr("nasdeploy.pipeline.stages.race.run_finalist", finalist)
    return asked


def came_to(losses: Mapping[Arch, float]) -> Outcome:
    """Each has these training losses; the validation says the opposite."""
    return lambda job: {
        "epochs": job.until,
        "training_loss": losses[job.arch],
        "validation": {"loss": 1 - losses[job.arch]},
    }


A, B, C, D, E = ((0, 0), (0, 1), (0, 2), (0, 3), (1, 0))


def test_half_as_many_go_on_for_twice_as_long_until_one_is_left() -> None:
    assert rounds_of(6, 1, 13) == [Round(6, 1), Round(3, 2), Round(2, 4)]
    assert rounds_of(8, 2, 13) == [Round(8, 2), Round(4, 4), Round(2, 8)]
    assert rounds_of(1, 1, 13) == []


def test_finalists_differ_in_two_decisions_where_there_are_as_many() -> None:
    archs = [(0, 0, 0), (0, 0, 1), (1, 1, 0), (1, 1, 1), (0, 1, 1), (2, 2, 2)]
    assert unlike(archs, 3) == [(0, 0, 0), (1, 1, 0), (0, 1, 1)]
    assert unlike(archs, 2) == [(0, 0, 0), (1, 1, 0)]


def test_of_those_that_are_alike_the_first_fill_up_in_the_order_of_the_search() -> None:
    archs = [(0, 0, 0), (0, 0, 1), (1, 1, 0), (0, 0, 2)]
    assert unlike(archs, 3) == [(0, 0, 0), (0, 0, 1), (1, 1, 0)]
    assert unlike(archs, 9) == archs


def test_no_round_goes_beyond_the_whole_training() -> None:
    assert rounds_of(8, 2, 3) == [Round(8, 2), Round(4, 3), Round(2, 3)]


def test_each_goes_on_from_where_it_stands() -> None:
    assert epochs_of(rounds_of(6, 1, 13)) == 6 * 1 + 3 * 1 + 2 * 2
    assert epochs_of([]) == 0


def test_who_came_further_stands_before_who_scored_higher_and_was_stopped(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    at: dict[int, dict[Arch, float]] = {
        1: {A: 0.6, B: 0.4, C: 0.5, D: 0.7, E: 0.9},
        2: {A: 0.3, B: 0.45, C: 0.35},
    }

    def outcome(job: TrainJob) -> dict[str, Any]:
        return came_to(at[job.until or 0])(job)

    asked = fake(monkeypatch, outcome)
    found = small.race([A, B, C, D, E])
    assert [(f.arch, f.epochs) for f in found] == [(A, 2), (C, 2), (B, 2), (D, 1), (E, 1)]
    assert (found[0].training_loss, found[0].metrics) == (0.3, {"loss": 0.7})
    first, second, third = asked[:5], asked[5:8], asked[8:]
    assert [until for _, until in first] == [1] * 5
    assert {arch for arch, _ in second} == {A, B, C}
    assert {arch for arch, _ in third} == {A, C}


def test_of_equals_the_one_that_the_search_had_before_stays_before(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, came_to(dict.fromkeys([A, B, C, D], 0.5)))
    assert [f.arch for f in small.race([C, A, D, B])] == [C, A, D, B]


def test_one_that_diverges_is_out_and_the_others_go_on(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = came_to({A: 0.5, C: 0.6, D: 0.7})
    fake(monkeypatch, lambda job: {"failure": "loss nan"} if job.arch == B else fine(job))
    found = small.race([B, A, C, D])
    assert [f.arch for f in found] == [A, C, D, B]
    assert found[-1].failure == "loss nan"
    assert (found[-1].training_loss, found[-1].metrics) == (None, {})


def test_where_none_can_be_trained_there_is_no_winner(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, lambda job: {"failure": "loss nan"})
    with pytest.raises(TrainingDiverged, match="None of 2 finalists could be trained: loss nan"):
        small.race([A, B])


class Ranked:
    """A strategy as far as candidates go."""

    def __init__(self, *archs: Arch) -> None:
        self.archs = archs

    def candidates(self, n: int, *, exclude: frozenset[Arch] = frozenset()) -> list[Arch]:
        return [arch for arch in self.archs if arch not in exclude][:n]


def test_who_is_measured_next_is_the_first_finalist_that_may_hold_the_bound_then_the_searchs_best(
    small: Small,
) -> None:
    cost = counted_cost(small.space, "params")
    params = {arch: cost.of(arch) for arch in (A, B, C, D)}
    assert params[B] > params[A]
    finalists = [Finalist(B, 2, 0.3), Finalist(A, 2, 0.4), Finalist(D, 1, failure="loss nan")]
    strategy: Any = Ranked(D, B, C, A)

    def follows(at_most: float, *tried: Arch) -> Arch | None:
        bounds = Bounds(None, None, [Limit("params", cost, at_most)])
        return next_candidate(strategy, finalists, bounds, frozenset(tried))

    assert follows(math.inf) == B
    assert follows(params[A]) == A, "B no longer holds the bounds"
    assert follows(math.inf, B) == A
    assert follows(math.inf, B, A) == C, "what could not be trained is passed over"
    assert follows(math.inf, A, B, C) is None


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_such_a_failure(folder: Path) -> None:
    wild = Small(folder, settings={"epochs": 2, "learning_rate": 1e30, "grad_clip": None})
    with pytest.raises(TrainingDiverged, match=r"None of 2 finalists.*epoch 1"):
        wild.race([A, B])


@pytest.mark.slow
def test_the_winner_goes_on_from_the_race_and_ends_as_if_there_had_been_none(folder: Path) -> None:
    small = Small(folder, settings={"epochs": 3})
    found = small.race([A, E], "raced")
    trained = journals(folder / "raced")
    assert [len(read_jsonl(path)) for path in trained] == [1, 1]

    winner = {"arch": list(found[0].arch), "space": dict(small.space.config)}
    raced, plain = (RunFolder(folder / name) for name in ("raced", "plain"))
    results = [
        train_winner(small.context, run, small.data, winner)["winner"] for run in (raced, plain)
    ]
    assert sorted(len(read_jsonl(path)) for path in trained) == [1, 3]
    assert results[0]["test"] == results[1]["test"]
    weights = [(run.winner / "weights.pt").read_bytes() for run in (raced, plain)]
    assert weights[0] == weights[1]


@pytest.mark.slow
def test_a_race_that_is_run_again_chooses_on_the_same_epochs_and_trains_nothing(
    folder: Path,
) -> None:
    small = Small(folder, settings={"epochs": 3})
    found = small.race([A, C, E])
    before = {path: path.read_bytes() for path in journals(folder / "run")}
    assert small.race([A, C, E]) == found
    assert {path: path.read_bytes() for path in journals(folder / "run")} == before


@pytest.mark.slow
def test_it_leaves_torch_as_it_was(small: Small) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(False)
    small.race([A, B])
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.rand(1), expected)


def journals(run: Path) -> list[Path]:
    return sorted((run / "checkpoints").glob("winner-*.epochs.jsonl"))
