from __future__ import annotations

import json
import math

import pytest
import yaml

from nasdeploy.pipeline.console import Console, Format, rows_table

DATA = {"ms": [1.5, None], "name": "k3 [bold]e6"}


@pytest.mark.parametrize("format", [Format.json, Format.yaml])
def test_what_a_program_reads_is_all_that_is_on_stdout(
    format: Format, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(format)
    console.log("working [1/2]")
    with console.progress("Measuring") as update:
        update(1, 2, "a")
    console.warn("careful")
    console.result(DATA, lambda: rows_table("", ["ms"], []))
    console.next("nasdeploy verify", wrote="runs/x")
    out, err = capsys.readouterr()
    read = json.loads if format is Format.json else yaml.safe_load
    assert read(out) == DATA
    assert err.splitlines() == [
        "working [1/2]", "warning: careful", "Wrote runs/x", "Next: nasdeploy verify",
    ]  # fmt: skip


def test_a_table_shows_texts_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    Console().result(DATA, lambda: rows_table("", ["arch"], [[DATA["name"]], [None]]))
    assert "k3 [bold]e6" in capsys.readouterr().out


def test_what_is_no_number_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError):
        Console(Format.json).result({"ms": math.nan})
    assert capsys.readouterr().out == ""


def test_a_forecast_comes_at_once_and_then_every_ten_seconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("nasdeploy.pipeline.console.time.monotonic", lambda: now)
    with Console().progress("Exporting") as update:
        for done in range(1, 31):
            now = float(done)
            update(done, 30, f"op {done}")
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "Exporting: 1 of 30, 29 s left  op 1",
        "Exporting: 11 of 30, 19 s left  op 11",
        "Exporting: 21 of 30, 9 s left  op 21",
    ]


def test_what_takes_under_two_seconds_has_no_progress(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("nasdeploy.pipeline.console.time.monotonic", lambda: now)
    with Console().progress("Exporting") as update:
        for done in range(1, 4):
            now = 0.3 * done
            update(done, 3)
    assert capsys.readouterr().err == ""


def test_a_forecast_that_is_known_better_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with Console().progress("Measuring") as update:
        update(1, 100, "round", 42.0)
    assert capsys.readouterr().err == "Measuring: 1 of 100, 42 s left  round\n"
