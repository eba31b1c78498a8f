"""Which recorded measurement stands for a network, and what it is held against."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from small_run import CONFIG

from nasdeploy.durable import Journal, read_jsonl
from nasdeploy.latency_tables.table import read_table
from nasdeploy.pipeline.config import make_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.flow import make_context
from nasdeploy.pipeline.measuring import (
    STARTS,
    Measurements,
    NetworkLatency,
    network_config,
    usual_sentinel_ms,
)

ONE = NetworkLatency(
    name="network 0.1", file_sha256="a" * 64, device="cpu, 2 cores", runtime="litert",
    runner="native", precision="int8", threads=1, statistic="p10", clock="wall",
    ms=2.0, low_ms=1.9, high_ms=2.1, median_ms=2.2, n=60, starts=3, peak_rss_bytes=None,
    statistics={"n": 60, "p10_ms": 2.0, "median_ms": 2.2}, measured="2026-03-01T12:00:00+00:00",
)  # fmt: skip
WANTED = {"device": "cpu, 2 cores", "runtime": "litert", "runner": "native",
          "precision": "int8", "threads": 1,
          "statistic": "p10"}  # fmt: skip


def recorded(path: Path, *latencies: NetworkLatency) -> Path:
    journal = Journal(path)
    for latency in latencies:
        journal.append(asdict(latency))
    return path


def test_the_whole_interval_must_lie_within_the_bound() -> None:
    assert ONE.within(2.1)
    assert not ONE.within(2.09)


def test_the_latest_measurement_counts(tmp_path: Path) -> None:
    path = recorded(tmp_path / "m.jsonl", ONE, replace(ONE, ms=3.0))
    found = Measurements(path).recorded("network 0.1", WANTED)
    assert found is not None
    assert found.ms == 3.0


@pytest.mark.parametrize(
    "other",
    [{"device": "phone"}, {"runtime": "executorch"}, {"runner": "python"}, {"precision": "fp32"},
     {"threads": 2}, {"statistic": "median"}],
    ids=str,
)  # fmt: skip
def test_unlike_measurements_do_not_stand_for_each_other(
    tmp_path: Path, other: dict[str, object]
) -> None:
    measurements = Measurements(recorded(tmp_path / "m.jsonl", ONE))
    assert measurements.recorded("network 0.1", WANTED) == ONE
    assert measurements.recorded("network 0.2", WANTED) is None
    assert measurements.recorded("network 0.1", {**WANTED, **other}) is None


def test_a_replayed_measurement_becomes_one_of_this_run(tmp_path: Path) -> None:
    theirs = recorded(tmp_path / "theirs.jsonl", ONE)
    mine = tmp_path / "mine.jsonl"
    measurements = Measurements(mine, theirs)
    for _ in range(2):
        assert measurements.recorded("network 0.1", WANTED) == ONE
    assert read_jsonl(mine) == [asdict(ONE)]
    assert read_jsonl(theirs) == [asdict(ONE)]


def test_a_measurement_of_this_run_goes_before_a_replayed_one(tmp_path: Path) -> None:
    theirs = recorded(tmp_path / "theirs.jsonl", replace(ONE, ms=9.0))
    mine = recorded(tmp_path / "mine.jsonl", ONE)
    assert Measurements(mine, theirs).recorded("network 0.1", WANTED) == ONE


@pytest.mark.slow
def test_while_the_bound_lies_in_the_interval_measuring_goes_on(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = make_config({**CONFIG, "data": "none"}, source="the test")
    context = make_context(config, Console(quiet=True))
    file = finished / "runs" / "tiny" / "winner" / "winner-onnxruntime-fp32.onnx"

    def measured(folder: Path, bound_ms: float | None) -> NetworkLatency:
        return Measurements(folder / "measurements.jsonl").measure(
            context, "winner", file, statistic="p10", config=network_config(context),
            label="Measuring", bound_ms=bound_ms,
        )  # fmt: skip

    first = measured(tmp_path, None)
    for name, bound_ms, goes_on in (("decided", first.high_ms, False), ("open", first.ms, True)):
        folder = tmp_path / name
        folder.mkdir()
        shutil.copy(tmp_path / "rounds.jsonl", folder)  # as if it had been killed behind them
        found = measured(folder, bound_ms)
        assert (found.n > first.n) == goes_on
        # a start that was rejected is made again, so that there may be more
        assert found.starts >= (2 * STARTS if goes_on else STARTS)
        rounds = read_jsonl(folder / "rounds.jsonl")
        begun = read_jsonl(tmp_path / "rounds.jsonl")
        assert rounds[: len(begun)] == begun


@pytest.mark.slow
def test_how_much_slower_a_device_is_than_when_its_table_was_measured_is_said(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    config = make_config({**CONFIG, "data": "none"}, source="the test")
    context = make_context(config, Console())
    table = read_table(finished / "runs" / "tiny" / "table.yaml")
    usual_ms = usual_sentinel_ms(table)
    assert usual_ms is not None
    file = finished / "runs" / "tiny" / "winner" / "winner-onnxruntime-fp32.onnx"

    def slowdown(name: str, ms: float) -> float | None:
        settings = replace(network_config(context, usual_ms=ms), wait_s=0.1)
        return Measurements(tmp_path / "measurements.jsonl").measure(
            context, name, file, statistic="p10", config=settings, label="Measuring"
        ).slowdown  # fmt: skip

    # as if the table had been measured on a device that is a hundred times quicker, or slower
    quicker = slowdown("quicker", usual_ms / 100)
    assert quicker is not None and quicker > 10
    assert "times as slow as when its table was measured" in capsys.readouterr().err
    slower = slowdown("slower", usual_ms * 100)
    assert slower is not None and slower < 0.5
    assert "times as slow" not in capsys.readouterr().err
