"""``profile`` and a bare ``search`` on the table that it made."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from small_run import SPACE, Cli

from nasdeploy.durable import read_jsonl
from nasdeploy.latency_tables.table import read_table

pytestmark = pytest.mark.slow

PROFILE = ("profile", "--samples", "10", "--duration-s", "0.1", "--anchors", "3", "--workers", "1")
SETTINGS = ("--set", "warmup_epochs=0", "--set", "search_epochs=1")


@pytest.fixture
def project(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder with a table of ours in it: the one of the run that is shared."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(finished / "tiny.npz", tmp_path)
    values = {
        "data": "tiny.npz",
        "runtime": "onnxruntime",
        "precision": "fp32",
        "space": {**SPACE, "input_shape": [1, 28, 28], "classes": 10},
        "profile": {"min_samples": 10, "min_duration_s": 0.1},
    }
    Path("nasdeploy.yaml").write_text(yaml.safe_dump(values))
    return tmp_path


def test_a_profile_is_not_repeated_by_accident(project: Path, cli: Cli) -> None:
    first = cli(*PROFILE, "--format", "yaml")
    assert first.code == 0, first.err
    table = Path("tables/local-onnxruntime-fp32-t1-mobile-small-1x28x28.yaml")
    assert yaml.safe_load(first.out)["table"] == str(table)
    assert first.err.splitlines()[-1] == f"Next: nasdeploy search --latency 40% --table {table}"
    assert len(read_table(table).anchors) == 3

    rounds = table.with_suffix(".rounds.jsonl")
    measured = read_jsonl(rounds)
    again = cli(*PROFILE)
    assert again.code == 2
    assert "--resume" in again.err
    assert "--overwrite" in again.err
    assert read_jsonl(rounds) == measured

    resumed = cli(*PROFILE, "--resume")
    assert resumed.code == 0
    assert read_jsonl(rounds) == measured, "it was complete"

    anew = cli(*PROFILE, "--overwrite")
    assert anew.code == 0
    assert read_jsonl(rounds) != measured
    (old,) = Path("tables").glob("*.rounds.jsonl.*.old")
    assert read_jsonl(old) == measured


def test_a_bare_search_takes_the_newest_table_and_the_data_of_the_project(
    project: Path, finished: Path, cli: Cli
) -> None:
    Path("tables").mkdir()
    name = "local-onnxruntime-fp32-t1-mobile-small-1x28x28.yaml"
    shutil.copy(finished / "runs/tiny/table.yaml", Path("tables", name))
    ended = cli("search", "--latency", "5ms", *SETTINGS, "--format", "json")
    assert ended.code == 0, ended.err
    assert f"Table tables/{name} of local, space mobile-small, data tiny.npz" in ended.err
    assert "to ship as onnxruntime fp32" in ended.err
    (run,) = Path("runs").iterdir()
    assert ended.err.splitlines()[-1] == f"Next: nasdeploy train --run {run.name}"
    again = cli("search", "--latency", "5ms", *SETTINGS, "--format", "json")
    assert "search: done already" in again.err
    assert again.out == ended.out
    assert list(Path("runs").iterdir()) == [run]


def test_a_published_table_gives_a_file_for_the_shape_that_it_was_made_for(
    project: Path, cli: Cli
) -> None:
    """Pixel 1: 3x224x224 and 1000 classes, while the images are 28x28 and grey."""
    Path("nasdeploy.yaml").unlink()
    ended = cli(
        "search", "--table", "pixel1", "--latency", "80ms", "--data", "tiny.npz", *SETTINGS,
        "--format", "json", "--name", "pixel",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    winner = yaml.safe_load(ended.out)
    assert winner["space"]["input_shape"] == [3, 224, 224]
    assert winner["train"] == {"input_shape": [3, 28, 28], "classes": 10}
    assert winner["estimated_ms"] <= 80
    assert winner["estimated_interval_ms"] is None
    assert winner["candidate"] is None
    assert Path(winner["file"]).suffix == ".tflite"
    assert Path(winner["file"]).stat().st_size > 100_000
    explicit = cli("search", "--table", "pixel1", "--latency", "80ms", "--statistic", "p95",
                   "--data", "tiny.npz")  # fmt: skip
    assert explicit.code == 2
    assert "mean" in explicit.err
