from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import mannwhitneyu
from small_run import Cli, write_small_table

from nasdeploy.errors import UsageError
from nasdeploy.pipeline.comparing import compare
from nasdeploy.pipeline.config import RunConfig, make_config, write_config
from nasdeploy.search.strategy import Trial


def finished(root: Path, strategy: str, seed: int, accuracies: list[float], data: str = "d") -> str:
    """A search's folder, with as much of it as a comparison reads."""
    folder = root / f"{strategy}{seed}"
    (folder / "winner").mkdir(parents=True)
    config: RunConfig = make_config(
        {"data": data, "seed": seed, "search": {"strategy": strategy}}, source="test"
    )
    write_config(config, folder / "config.yaml")
    trials = [
        Trial(n, (n, n % 2), {"accuracy": value, "latency_ms": 1.0 + n})
        for n, value in enumerate(accuracies)
    ]
    trials.append(Trial(len(trials), (9, 9), failure="lost"))
    lines = [json.dumps(trial.to_json()) + "\n" for trial in trials]
    (folder / "history.jsonl").write_text("".join(lines))
    (folder / "winner" / "arch.json").write_text(json.dumps({"table": "pixel1", "bound_ms": 2.5}))
    return str(folder)


def test_strategies_are_compared_over_their_seeds_within_the_bound(tmp_path: Path) -> None:
    good = [0.80, 0.81, 0.82, 0.83, 0.84]
    poor = [0.70, 0.71, 0.72, 0.73, 0.74]
    runs = [finished(tmp_path, "bayesian", n, [0.5, best, 0.99]) for n, best in enumerate(good)]
    runs += [finished(tmp_path, "random", n, [0.5, best]) for n, best in enumerate(poor)]
    figures = compare(runs)
    mine, baseline = figures["strategies"]["bayesian"], figures["strategies"]["random"]
    assert mine["best"] == good  # the third trial takes 3 ms and does not hold 2.5 ms
    assert mine["best_mean"] == pytest.approx(0.82)
    assert mine["best_deviation"] == pytest.approx(np.std(good, ddof=1))
    assert mine["failed"] == 5 and mine["trials_to_99_percent_mean"] == 2
    assert mine["hypervolume_mean"] > baseline["hypervolume_mean"] > 0
    assert mine["search_s_mean"] is None
    (test,) = figures["tests"]
    assert test["p"] == pytest.approx(mannwhitneyu(good, poor).pvalue)
    assert test["ahead"] == "bayesian" and test["significant"] and test["enough_seeds"]


def test_runs_of_unlike_problems_are_not_compared(tmp_path: Path) -> None:
    runs = [finished(tmp_path, "random", n, [0.5], data) for n, data in enumerate("ab")]
    with pytest.raises(UsageError, match="differ in their data"):
        compare(runs)
    with pytest.raises(UsageError, match="name two runs or more"):
        compare(runs[:1])


def test_a_folder_without_a_search_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no finished search"):
        compare([str(tmp_path), str(tmp_path)])


@pytest.mark.slow
def test_a_search_over_seeds_ends_with_the_comparison_that_comes_next(
    cli: Cli, folder: Path
) -> None:
    write_small_table(folder / "table.yaml")
    common = (
        "--table", "table.yaml", "--data", "tiny.npz", "--latency", "60%", "--seeds", "2",
        "--runtime", "onnxruntime", "--precision", "fp32",
        "--set", "supernet_epochs=1", "--set", "trials=3", "--set", "trials_per_step=3",
        "--format", "json",
    )  # fmt: skip
    names: list[str] = []
    for strategy in ("random", "nsga2"):
        ended = cli("search", *common, "--strategy", strategy, "--name", strategy)
        assert ended.code == 0, ended.err
        found = list(json.loads(ended.out))
        assert found == [f"{strategy}-seed0", f"{strategy}-seed1"]
        assert f"nasdeploy compare {' '.join(found)}" in ended.err
        names += found
    ended = cli("compare", *names, "--format", "json")
    assert ended.code == 0, ended.err
    figures = json.loads(ended.out)
    for one in figures["strategies"].values():
        assert one["seeds"] == [0, 1] and one["trials_mean"] == 3 and one["search_s_mean"] > 0
    assert not figures["tests"][0]["enough_seeds"]
    assert "nasdeploy train --run" in ended.err
