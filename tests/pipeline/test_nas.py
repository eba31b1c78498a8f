"""The short names: `from nas import ...`."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from small_run import SPACE, Cli, environment, small_space, write_small_table

from nas import (
    Architecture,
    ArchitectureEvaluator,
    DARTSSearcher,
    ENASSearcher,
    PCDARTSSearcher,
    PNASSearcher,
    ProxylessNASSearcher,
)
from nasdeploy.errors import NothingWithinBounds, UnknownName, UsageError
from nasdeploy.search.counters import counted_cost
from nasdeploy.search.space import check_arch
from nasdeploy.search.spaces import make_space

ROOT = Path(__file__).parent.parent.parent
PARAMETERS = {name: value for name, value in SPACE.items() if name != "name"}


def test_the_published_calls_are_taken_as_they_are() -> None:
    DARTSSearcher(dataset="cifar10", search_space="darts_space", epochs=50, batch_size=64)
    PNASSearcher(search_space="pnas_space", predictor_epochs=150, search_epochs=300)
    ProxylessNASSearcher(
        target_platform="mobile", latency_constraint=100, accuracy_weight=0.7, latency_weight=0.3
    )
    ENASSearcher()
    PCDARTSSearcher()
    ArchitectureEvaluator()


def small_searcher(table: str | None = None, **changes: object) -> ENASSearcher:
    options: dict[str, object] = {
        "dataset": "tiny.npz",
        "search_space": "mobile-small",
        "space": PARAMETERS,
        "epochs": 2,
        "batch_size": 32,
        "settings": {"hidden": 8, "final_trials": 4, "trials_per_epoch": 2},
        "images": 80,
        "table": table,
        "quiet": True,
    }
    return ENASSearcher(**{**options, **changes})  # type: ignore[arg-type]


def test_a_search_without_a_table_knows_no_latency_and_is_found_again(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found = small_searcher().search()
    space = make_space(found.space)
    check_arch(space, found.arch)
    assert found.estimated_ms is None
    assert space.deployment.input_shape == (1, 28, 28)
    assert list(found.choices.values()) == [
        decision.choices[choice]
        for decision, choice in zip(space.decisions, found.arch, strict=True)
    ]
    history = (found.run / "history.jsonl").read_text()
    assert "latency_ms" not in history and "accuracy" in history
    capfd.readouterr()
    assert small_searcher(quiet=False).search() == found
    assert "search: done already" in capfd.readouterr().err


@pytest.mark.slow
def test_a_run_without_a_table_goes_on_by_the_commands(folder: Path, cli: Cli) -> None:
    searcher = small_searcher(name="free", settings={"hidden": 8, "final_trials": 2})
    found = searcher.search()
    trained = searcher.train_final_architecture(found, epochs=1)
    assert 0 <= trained["accuracy"] <= 1 and trained["weights"].is_file()
    ended = cli(
        "train", "--run", "free", "--epochs", "2", "--random-baselines", "1", "--format", "json"
    )
    assert ended.code == 0, ended.err
    assert set(json.loads(ended.out)) == {"winner", "random-1"}
    ended = cli("export", "--run", "free", "--runtime", "onnxruntime", "--precision", "fp32")
    assert ended.code == 0, ended.err
    ended = cli("compare", "free", "free")
    assert ended.code == 2 and "without a table" in ended.err
    with pytest.raises(UsageError, match="found another architecture since"):
        searcher.train_final_architecture(replace(found, arch=(9, 9)), epochs=1)


def test_on_a_table_nothing_beyond_the_constraint_is_returned(folder: Path) -> None:
    write_small_table(folder / "table.yaml", device="pixel9")
    found = small_searcher("table.yaml", latency_constraint="30%").search()
    free = small_searcher("table.yaml", latency_constraint="100%").search()
    assert found.estimated_ms is not None and free.estimated_ms is not None
    with pytest.raises(NothingWithinBounds, match="Raise the bound"):
        small_searcher("table.yaml", latency_constraint=0.001).search()
    as_number = small_searcher("table.yaml", latency_constraint=found.estimated_ms).search()
    assert as_number.estimated_ms is not None
    assert as_number.estimated_ms <= found.estimated_ms

    values = ArchitectureEvaluator(table="table.yaml", quiet=True).evaluate_architecture(
        found, metrics=["params", "latency", "flops"]
    )
    assert list(values) == ["params", "latency", "flops"]
    assert values["latency"] == pytest.approx(found.estimated_ms)
    space = small_space()
    assert values["flops"] == counted_cost(space, "macs").of(found.arch)
    assert values["params"] == counted_cost(space, "params").of(found.arch)


def test_what_cannot_be_asked_for_is_answered_before_anything_is_computed(folder: Path) -> None:
    with pytest.raises(UsageError, match="needs a table"):
        small_searcher(latency_constraint=5).search()
    with pytest.raises(UsageError, match="give both"):
        ProxylessNASSearcher(accuracy_weight=0.7)
    with pytest.raises(UnknownName, match="Did you mean 'darts'"):
        DARTSSearcher("tiny.npz", search_space="drats_space", quiet=True).search()
    with pytest.raises(UnknownName, match="Did you mean 'search_epochs'"):
        small_searcher(settings={"search_epoch": 3}).search()
    found = Architecture(SPACE, {}, (0, 0), Path("runs/none"), "tiny.npz")
    with pytest.raises(UnknownName, match="Did you mean 'latency'"):
        ArchitectureEvaluator().evaluate_architecture(found, metrics=["latencies"])
    assert not (folder / "runs").exists()


def test_weights_on_accuracy_and_latency_become_the_term_that_pushes_on() -> None:
    searcher = ProxylessNASSearcher("mobile", 100, 0.7, 0.3, epochs=12)
    config = searcher._config
    assert config.table == "pixel1" and config.bounds.latency == "100ms"
    settings = config.search.settings
    assert settings["latency_term"] == "add"
    assert settings["latency_weight"] == pytest.approx(3 / 7)
    # a third of its epochs are its warm-up, as by default
    assert (settings["warmup_epochs"], settings["search_epochs"]) == (4, 8)


@pytest.mark.slow
def test_the_example_with_the_four_calls_runs(tmp_path: Path, cache: Path) -> None:
    process = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "four_calls.py")],
        cwd=tmp_path,
        env={**environment(), "NASDEPLOY_CACHE": str(cache), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    # once: the processes that train do not run the script again
    heads = [line.partition(" ")[0] for line in lines]
    assert heads == ["DARTS", "Trained", "PNAS", "ProxylessNAS", "Evaluated:"]
    values = ast.literal_eval(lines[-1].partition(": ")[2])
    assert list(values) == ["accuracy", "latency", "flops", "params"]
    trained = re.search(r"'accuracy': ([0-9.]+)", lines[1])
    assert trained and values["accuracy"] == float(trained[1])
    assert values["latency"] > 0 and values["flops"] > values["params"] > 0
    estimated = re.search(r"([0-9.]+) ms estimated", lines[3])
    assert estimated and float(estimated[1]) <= 100
    assert len(list((tmp_path / "runs").iterdir())) == 4
