"""A whole run, on real images and this machine: what comes out, and what a second one does."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from small_run import Cli, environment, start, write_config, write_small_table

from nasdeploy.durable import read_jsonl, sha256_file
from nasdeploy.latency_tables.table import read_table

pytestmark = pytest.mark.slow

STAGES = ["profile", "search", "train", "export", "baselines", "verify"]


@pytest.fixture
def run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in; returns the run's folder."""
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return Path("runs/tiny")


def manifest(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    return values


def skipped(err: str) -> list[str]:
    return [line.split(":")[0] for line in err.splitlines() if "done already" in line]


def test_the_result_is_on_stdout_and_the_log_ends_with_what_comes_next(finished: Path) -> None:
    result = json.loads((finished / "out.json").read_text())
    assert set(result) == {"winner", "trained", "files", "measured"}
    assert set(result["trained"]) == {"winner", "random-1"}
    log = (finished / "err.txt").read_text().splitlines()
    assert log[-2].startswith("Wrote runs/tiny")
    assert log[-1] == "Next: open runs/tiny/report.html"
    assert any(line.startswith("Profiling mobile-small on local") for line in log)


def test_everything_that_was_promised_is_in_the_folder(finished: Path) -> None:
    run = finished / "runs" / "tiny"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["bounds"] == {"latency": "5ms", "statistic": "p10"}
    assert set(manifest(run)["stages"]) == {*STAGES, "report"}
    assert manifest(run)["exit"] == 0
    assert [entry["trial"] for entry in read_jsonl(run / "history.jsonl")] == [0, 1, 2]
    assert len(read_table(run / "table.yaml").anchors) == 3
    with (run / "pareto.csv").open() as file:
        assert {"trial", "accuracy", "latency_ms"} <= set(next(csv.reader(file)))
    winner = json.loads((run / "winner" / "arch.json").read_text())
    assert winner["candidate"]["high_ms"] <= winner["bound_ms"] == 5.0
    first, second = winner["finalists"]
    assert first["arch"] == winner["arch"] != second["arch"]
    assert first["training_loss"] <= second["training_loss"]
    assert first["epochs"] == second["epochs"] == 1
    assert "## The finalists" in (run / "winner" / "card.md").read_text()
    trainings = [read_jsonl(p) for p in (run / "checkpoints").glob("winner-*.epochs.jsonl")]
    assert sorted(map(len, trainings)) == [1, 2], "the first goes on, the second does not"
    (measured,) = json.loads((run / "winner" / "measured.json").read_text())["files"]
    assert measured["within_bound"]
    assert measured["starts"] >= 3
    (parity,) = json.loads((run / "winner" / "parity.json").read_text())
    assert parity["parity"]["images"] == 100
    sidecar = json.loads((run / "winner" / "winner-onnxruntime-fp32.onnx.json").read_text())
    assert len(sidecar["labels"]) == 10
    assert "winner-onnxruntime-fp32.onnx" in (run / "winner" / "card.md").read_text()
    assert "<html" in (run / "report.html").read_text()
    assert not list(run.rglob("*.part"))


def test_a_second_run_does_nothing(run: Path, cli: Cli) -> None:
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    ended = cli("run", "tiny.yaml")
    assert ended.code == 0
    assert skipped(ended.err) == STAGES
    changed = {p.name for p in run.rglob("*") if p.is_file() and before.get(p) != p.read_bytes()}
    assert changed == {"manifest.json", ".lock"}
    assert "within the bound" in ended.out


def test_each_stage_by_its_own_command(run: Path, cli: Cli) -> None:
    train = cli("train", "--format", "json")
    assert (train.code, skipped(train.err)) == (0, ["train", "baselines"])
    assert json.loads(train.out)["winner"]["epochs"] == 2
    export = cli("export", "--format", "yaml")
    assert (export.code, skipped(export.err)) == (0, ["export"])
    assert yaml.safe_load(export.out)[0]["runtime"] == "onnxruntime"
    verify = cli("verify", "--run", "tiny", "--format", "json")
    assert verify.code == 0
    assert json.loads(verify.out)[0]["within_bound"] is True
    names = [entry["name"] for entry in read_jsonl(run / "measurements.jsonl")]
    assert len(names) == 3, "a verification by hand measures anew and keeps what was measured"
    again = cli("run", "tiny.yaml", "--format", "json")
    assert skipped(again.err) == STAGES
    latest = read_jsonl(run / "measurements.jsonl")[-1]["ms"]
    assert json.loads(again.out)["measured"][0]["ms"] == latest


def spoil_for_int8(run: Path) -> None:
    """Let one channel between two blocks be 10,000 times as large, and weigh it as much less.

    The network computes what it did, but eight bits for the whole tensor leave nothing for the
    other channels.
    """
    path = run / "winner" / "weights.pt"
    stored = torch.load(path, weights_only=True)
    weights = stored["content"]["weights"]
    for name in ("weight", "bias"):
        weights[f"first.project.norm.{name}"][0] *= 1e4
    weights["stage1_block1.expand.conv.weight"][:, 0] /= 1e4
    torch.save(stored, path)
    values = manifest(run)
    values["stages"]["train"]["files"]["winner/weights.pt"] = sha256_file(path)
    (run / "manifest.json").write_text(json.dumps(values))


def test_an_export_that_costs_more_accuracy_than_it_may_ends_with_its_own_code(
    run: Path, cli: Cli
) -> None:
    assert cli("train", "--epochs", "12", "--random-baselines", "0").code == 0
    spoil_for_int8(run)
    ended = cli("export", "--precision", "int8", "--calibration-images", "16")
    assert ended.code == 6, ended.err
    assert ended.err.count("error: ") == 1
    fp32, int8 = json.loads((run / "winner" / "parity.json").read_text())
    assert (fp32["path"], int8["path"]) == (
        "winner-onnxruntime-fp32.onnx", "winner-onnxruntime-int8.onnx",
    )  # fmt: skip
    assert fp32["parity"]["top1_agreement"] == 1
    assert int8["parity"]["drop_points"] > 2


def test_other_training_settings_train_anew_and_keep_what_was_trained(run: Path, cli: Cli) -> None:
    earlier = (run / "winner" / "weights.pt").read_bytes()
    ended = cli("train", "--epochs", "1", "--random-baselines", "0")
    assert ended.code == 0
    assert skipped(ended.err) == []
    (aside,) = (run / "set-aside").iterdir()
    assert (aside / "winner" / "weights.pt").read_bytes() == earlier
    assert (aside / "winner" / "winner-onnxruntime-fp32.onnx").exists()
    ended = cli("verify")
    assert ended.code == 2, "the files are of other weights"
    assert "nasdeploy export --run tiny" in ended.err
    ended = cli("run", "tiny.yaml")
    assert ended.code == 0, ended.err
    assert skipped(ended.err) == ["profile", "search", "baselines"]
    assert (run / "winner" / "weights.pt").read_bytes() == earlier


def test_more_finalists_race_on_a_finished_search(run: Path, cli: Cli) -> None:
    trials = (run / "history.jsonl").read_bytes()
    write_config(Path("tiny.yaml"), train={"random_baselines": 1}, search={"finalists": 3})
    ended = cli("run", "tiny.yaml")
    assert ended.code == 0, ended.err
    assert skipped(ended.err)[0] == "profile"
    assert "search" not in skipped(ended.err)
    assert (run / "history.jsonl").read_bytes() == trials
    winner = json.loads((run / "winner" / "arch.json").read_text())
    assert [finalist["epochs"] for finalist in winner["finalists"]] == [2, 2, 1]


def test_another_bound_under_the_same_name_sets_the_old_search_aside(run: Path, cli: Cli) -> None:
    measured = read_jsonl(run / "measurements.jsonl")
    ended = cli("run", "tiny.yaml", "--latency", "6ms")
    assert ended.code == 0, ended.err
    assert skipped(ended.err) == ["profile", "baselines"], (
        "its random network is within both bounds"
    )
    (aside,) = [path for path in (run / "set-aside").iterdir() if path.name.startswith("search")]
    assert (aside / "history.jsonl").exists()
    assert (aside / "winner" / "card.md").exists()
    assert read_jsonl(run / "measurements.jsonl")[: len(measured)] == measured


def test_a_bound_that_no_candidate_holds_ends_in_exit_code_5(run: Path, cli: Cli) -> None:
    """A table that promises a tenth of what things take: every candidate corrects it."""
    table = yaml.safe_load((run / "table.yaml").read_text())
    ops = [row["p10_ms"] for row in table["ops"].values()]
    write_config(
        Path("fast.yaml"),
        profile={"anchors": 0},
        bounds={"latency": f"{min(ops) / 50}ms"},
        table="fast-table.yaml",
    )
    _scale_table(run / "table.yaml", Path("fast-table.yaml"), 1 / 1000)
    ended = cli("run", "fast.yaml")
    assert ended.code == 5, ended.err
    assert "candidates holds" in ended.err
    candidates = read_jsonl(Path("runs/fast/measurements.jsonl"))
    assert len(candidates) >= 1
    assert manifest(Path("runs/fast"))["exit"] == 5


def _scale_table(source: Path, target: Path, factor: float) -> None:
    from dataclasses import fields, replace

    from nasdeploy.latency_tables.table import write_table

    table = read_table(source)
    ops = {
        key: replace(
            row,
            ci95_ms=None,
            **{
                f.name: getattr(row, f.name) * factor
                for f in fields(row)
                if f.name.endswith("_ms") and f.name != "ci95_ms"
            },
        )
        for key, row in table.ops.items()
    }
    write_table(replace(table, ops=ops, anchors=(), fits=()), target)


def test_a_trained_supernet_serves_another_bound(run: Path, cli: Cli) -> None:
    write_small_table(Path("other.yaml"))
    ended = cli(
        "search", "--table", "other.yaml", "--data", "tiny.npz", "--latency", "90%",
        "--supernet", run / "supernet.pt", "--set", "search_epochs=1", "--name", "again",
        "--runtime", "onnxruntime", "--precision", "fp32",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert len(read_jsonl(Path("runs/again/history.jsonl"))) == 1, "one epoch, and no warm-up"


def test_one_run_is_written_by_one_process(run: Path, cli: Cli) -> None:
    process = start("run", "tiny.yaml", "--latency", "7ms", folder=Path.cwd())
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Searching"):
            break
    ended = cli("run", "tiny.yaml")
    process.kill()
    process.communicate()
    assert ended.code == 2
    assert f"in use by process {process.pid}" in ended.err


def test_weights_are_read_as_plain_tensors(finished: Path) -> None:
    weights = finished / "runs" / "tiny" / "winner" / "weights.pt"
    assert torch.load(weights, weights_only=True)


def test_the_environment_of_the_tests_reaches_the_processes(cache: Path) -> None:
    assert environment()["NASDEPLOY_CACHE"] == str(cache)


def test_what_a_run_measured_becomes_anchors_of_its_table_when_asked(run: Path, cli: Cli) -> None:
    before = (run / "table.yaml").read_bytes()
    ended = cli("table", "merge", str(run / "table.yaml"), str(run), "--into", "merged.yaml")
    assert ended.code == 0, ended.err
    assert (run / "table.yaml").read_bytes() == before
    table, merged = read_table(run / "table.yaml"), read_table(Path("merged.yaml"))
    winner = json.loads((run / "winner" / "arch.json").read_text())
    added = merged.anchors[len(table.anchors) :]
    assert [anchor.arch for anchor in added] == [tuple(winner["arch"])]
    assert added[0].statistics.value("p10") == winner["candidate"]["ms"]
    assert merged.ops == table.ops


def test_a_run_on_another_runtime_has_no_anchors_for_a_table(run: Path, cli: Cli) -> None:
    measurements = run / "measurements.jsonl"
    measurements.write_text(measurements.read_text().replace('"onnxruntime"', '"litert"'))
    ended = cli("table", "merge", str(run / "table.yaml"), str(run), "--into", "merged.yaml")
    assert ended.code == 2
    assert "measured no network" in ended.err
    assert not Path("merged.yaml").exists()
