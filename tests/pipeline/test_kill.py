"""Kill -9 at random moments, again and again: nothing measured is lost, and nothing changes."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from small_run import environment, write_config

from nasdeploy.durable import read_jsonl

pytestmark = pytest.mark.slow

KILLS = 10  # of each of the two runs
DRIVER = Path(__file__).with_name("forked_cli.py")


class Forks:
    """Starts commands without waiting for imports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._driver = subprocess.Popen(
            [sys.executable, str(DRIVER)],
            cwd=folder,
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def begin(self, *arguments: str) -> int:
        """The process id of the command."""
        assert self._driver.stdin is not None
        self._driver.stdin.write(json.dumps(arguments) + "\n")
        self._driver.stdin.flush()
        return int(self._line())

    def kill(self, process: int) -> int:
        """The exit code; minus the signal, unless the command had ended before."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        return int(self._line())

    def run(self, *arguments: str) -> int:
        self.begin(*arguments)
        return int(self._line())

    def log(self) -> str:
        return (self.folder / "forked.log").read_text()

    def _line(self) -> str:
        assert self._driver.stdout is not None
        return self._driver.stdout.readline().strip()

    def close(self) -> None:
        self._driver.kill()
        self._driver.communicate()


@pytest.fixture
def forks(finished: Path, tmp_path: Path) -> Iterator[Forks]:
    shutil.copy(finished / "tiny.npz", tmp_path)
    started = Forks(tmp_path)
    yield started
    started.close()


def killed_and_resumed(
    forks: Forks, run: Path, *arguments: str, longest_s: float, seed: int
) -> list[int]:
    """Kill the command at random moments, then let it end; returns how each ended.

    Where it ended before the moment came, it begins anew with an empty folder, and the moments come
    sooner.
    """
    rng = Random(seed)
    codes: list[int] = []
    journals: dict[Path, list[Any]] = {}
    while codes.count(-signal.SIGKILL) < KILLS:
        process = forks.begin(*arguments)
        time.sleep(rng.uniform(0.1, longest_s))
        codes.append(forks.kill(process))
        if codes[-1] != -signal.SIGKILL:
            assert codes[-1] == 0, forks.log()
            shutil.rmtree(run)
            journals.clear()
            longest_s *= 0.7
            continue
        for path, earlier in journals.items():
            assert read_jsonl(path)[: len(earlier)] == earlier, f"{path.name} lost an entry"
        journals = {
            path: read_jsonl(path)
            for path in run.glob("*.jsonl")
            if path.name != "history.jsonl"  # it is cut back to its checkpoint
        }
    codes.append(forks.run(*arguments))
    print("ended by", codes)
    return codes


def accepted_rounds(journal: Path) -> list[tuple[str, int]]:
    rounds = [entry for entry in read_jsonl(journal) if entry["event"] == "round"]
    return [(entry["session"], entry["round"]) for entry in rounds]


def test_no_measurement_is_lost_or_taken_twice(forks: Forks) -> None:
    write_config(forks.folder / "tiny.yaml")
    run = forks.folder / "runs" / "tiny"
    codes = killed_and_resumed(forks, run, "run", "tiny.yaml", longest_s=2.5, seed=1)
    assert codes[-1] == 0, forks.log()
    for journal in ("table.rounds.jsonl", "rounds.jsonl"):
        rounds = accepted_rounds(run / journal)
        assert len(rounds) == len(set(rounds)) > 0
    names = [entry["name"] for entry in read_jsonl(run / "measurements.jsonl")]
    assert len(names) == len(set(names)) == 2, "a candidate, and the final file"
    starts = [e for e in read_jsonl(run / "table.rounds.jsonl") if e["event"] == "start"]
    assert len({entry["start"] for entry in starts}) == len(starts)
    assert not list(run.rglob("*.part"))


def test_given_the_measurements_a_killed_run_ends_bit_for_bit_like_an_undisturbed_one(
    forks: Forks, finished: Path
) -> None:
    undisturbed = finished / "runs" / "tiny"
    (forks.folder / "runs" / "tiny").mkdir(parents=True)
    shutil.copy(undisturbed / "table.yaml", forks.folder / "runs" / "tiny")
    write_config(
        forks.folder / "given.yaml", table="runs/tiny/table.yaml", train={"random_baselines": 1}
    )
    killed = forks.folder / "runs" / "given"
    codes = killed_and_resumed(
        forks, killed, "run", "given.yaml", "--measurements",
        str(undisturbed / "measurements.jsonl"), longest_s=2.0, seed=2,
    )  # fmt: skip
    assert codes[-1] == 0, forks.log()
    same = (
        "history.jsonl", "pareto.csv", "measurements.jsonl", "winner/arch.json",
        "winner/weights.pt", "winner/winner-onnxruntime-fp32.onnx", "winner/measured.json",
        "winner/parity.json",
    )  # fmt: skip
    for name in same:
        assert (killed / name).read_bytes() == (undisturbed / name).read_bytes(), name
    one, other = (
        torch.load(run / "supernet.pt", weights_only=True)["content"]["weights"]
        for run in (killed, undisturbed)
    )
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_nothing_of_a_killed_training_goes_on_without_it(forks: Forks, finished: Path) -> None:
    shutil.copytree(finished / "runs", forks.folder / "runs")
    of_the_run = len(trainings(forks.folder))
    process = forks.begin("train", "--epochs", "5000", "--random-baselines", "0")
    deadline = time.monotonic() + 60
    while len(journals := trainings(forks.folder)) == of_the_run:
        assert time.monotonic() < deadline, forks.log()
        time.sleep(0.1)
    assert forks.kill(process) == -signal.SIGKILL
    time.sleep(0.5)
    before = {path: path.read_bytes() for path in journals}
    time.sleep(1.5)
    assert {path: path.read_bytes() for path in trainings(forks.folder)} == before


def trainings(folder: Path) -> list[Path]:
    return [p for p in folder.glob("runs/tiny/checkpoints/*.epochs.jsonl") if p.stat().st_size]
