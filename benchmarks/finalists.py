"""What is racing the finalists worth? The same search with and without, against random networks.

    python benchmarks/finalists.py --json
    python benchmarks/finalists.py --json --seeds 8 --table runs/quickstart/table.yaml

For each seed: the search of a configuration (examples/quickstart.yaml) as it stands; the same
search for the accuracy, on the supernet that the first one trained, with no race; and random
networks drawn evenly within the bound. All of them are trained equally, and a JSON line says what
they come to on the test images, in percent; ``extra_epochs`` is how long the race trained networks
other than the winner. The last line has the means, and 95 % intervals of the mean differences over
seeds (Student's t). Two thousand test images tell two networks apart by about a point: one seed
says little.

Candidates are measured on this machine, so it should have nothing else to do.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nasdeploy.pipeline import flow
from nasdeploy.pipeline.config import GoalConfig, RunConfig, read_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.estimating import OpenedTable, open_table
from nasdeploy.pipeline.run_folder import RunFolder
from nasdeploy.pipeline.stages.baselines import baseline_jobs, train_baselines
from nasdeploy.pipeline.stages.profile import profile
from nasdeploy.pipeline.stages.train import train_winner

EXAMPLE = Path(__file__).parent.parent / "examples" / "quickstart.yaml"


def table_of(config: RunConfig, given: Path | None, console: Console) -> OpenedTable:
    """The table that is given, else one that is measured now into the working folder."""
    if given is not None:
        return open_table(given)
    path = Path("table.yaml")
    context = flow.make_context(config, console)
    profile(context, flow.space_for(config, flow.load(config)), path)
    return open_table(path)


def with_and_without(
    config: RunConfig, opened: OpenedTable, console: Console
) -> tuple[RunFolder, Mapping[str, Any], Mapping[str, Any]]:
    """The run's folder, what the race chose, and what the search would have chosen without."""
    folder, raced = flow.search_only(config, console, opened)
    search = config.search.model_copy(
        update={"goal": GoalConfig(), "finalists": 1, "supernet": str(folder.supernet_path)}
    )
    plain = config.model_copy(update={"name": f"{config.name}-plain", "search": search})
    _, first = flow.search_only(plain, console, opened)
    return folder, raced, first


def compared(config: RunConfig, opened: OpenedTable, console: Console) -> dict[str, Any]:
    """Accuracies of one seed, percent of the test images."""
    folder, raced, first = with_and_without(config, opened, console)
    context = flow.make_context(config, console)
    data = flow.load(config)
    problem = flow.pose_on(context, opened, data)
    drawn = flow.baselines(context, problem, raced)
    others = [tuple(first["arch"]), *drawn]
    jobs = baseline_jobs(context, folder, problem.space, problem.data, others)
    results = train_winner(context, folder, problem.data, raced, jobs)
    results |= train_baselines(context, folder, problem.data, jobs)
    winner, plain, *random = (
        round(100 * float(result["test"]["accuracy"]), 2) for result in results.values()
    )
    return {
        "seed": config.seed,
        "winner": winner,
        "without_race": plain,
        "random": random,
        "extra_epochs": sum(finalist["epochs"] for finalist in raced["finalists"][1:]),
        "arch": raced["arch"],
        "arch_without_race": first["arch"],
    }


def summed_up(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and the mean differences with their intervals."""
    winner = np.array([row["winner"] for row in rows])
    plain = np.array([row["without_race"] for row in rows])
    random = np.array([np.mean(row["random"]) for row in rows])
    return {
        "seeds": len(rows),
        "winner_pct": round(float(winner.mean()), 2),
        "without_race_pct": round(float(plain.mean()), 2),
        "random_pct": round(float(random.mean()), 2),
        "above_random_points": _mean_and_interval(winner - random),
        "without_race_above_random_points": _mean_and_interval(plain - random),
    }


def _mean_and_interval(gains: np.ndarray) -> list[float | None]:
    """[mean, low, high]; the ends are None of a single seed."""
    from scipy.stats import t

    mean = float(gains.mean())
    if len(gains) < 2:
        return [round(mean, 2), None, None]
    half = float(t.ppf(0.975, len(gains) - 1)) * float(gains.std(ddof=1)) / len(gains) ** 0.5
    return [round(mean, 2), round(mean - half, 2), round(mean + half, 2)]


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="no progress, only JSON lines")
    parser.add_argument("--config", type=Path, default=EXAMPLE)
    parser.add_argument("--table", type=Path, help="measured on this machine; else one is measured")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--random", type=int, default=3, help="networks for each seed")
    args = parser.parse_args()
    table = args.table.resolve() if args.table else None
    config = read_config(args.config)
    train = config.train.model_copy(update={"random_baselines": args.random})
    console = Console(quiet=args.json)
    rows = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        opened = table_of(config, table, console)
        for seed in range(args.seeds):
            one = config.model_copy(update={"name": f"seed{seed}", "seed": seed, "train": train})
            rows.append(compared(one, opened, console))
            print(json.dumps(rows[-1]), flush=True)
    print(json.dumps(summed_up(rows)))


if __name__ == "__main__":
    main()
