"""Is what a search finds better than chance? Winners against random networks of equal latency.

    python benchmarks/search_quality.py --json
    python benchmarks/search_quality.py --json --methods enas --seeds 1 --search-seconds 60
    python benchmarks/search_quality.py --json --methods darts --set latency_weight=0

On the shipped Fashion-MNIST subset, for each method and seed: a search of at most so many seconds
within a latency bound, then its winner and three random architectures of the same estimated latency
are trained equally and briefly from their first weights. Latencies are this machine's: each space
is profiled once (ONNX Runtime fp32), before anything else runs; ``--folder`` keeps the tables.

How many epochs a search has is found by timing its first one, so that its schedule ends within the
time; ``--search-epochs`` fixes it. One line for each method: test accuracies, what the winner is
above the mean of its random ones in points, with a 95 % interval of the mean over seeds (Student's
t; none with one seed), the rank correlation of supernet and trained accuracies over the four
networks of a seed, and what it took. ``latency_off_pct`` is how far the estimate of a random
network was from the winner's at most.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from peers import in_processes

from nasdeploy.latency_tables.estimate import Estimator
from nasdeploy.latency_tables.table import read_table
from nasdeploy.pipeline.commands.options import settings_of
from nasdeploy.pipeline.config import make_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.data import DataSet, load_data
from nasdeploy.pipeline.estimating import estimator_of
from nasdeploy.pipeline.flow import make_context
from nasdeploy.pipeline.stages.profile import profile
from nasdeploy.search.objective import Bounds
from nasdeploy.search.sanity import Agreement
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.spaces import make_space
from nasdeploy.search.strategies import WeightSharing, make_settings, make_strategy
from nasdeploy.search.strategy import Evaluator, Request
from nasdeploy.search.task import Classification, evaluate
from nasdeploy.search.training import TrainSettings, train
from nasdeploy.seeds import derived_seed

DATA = "fashion-mnist-mini"
STATISTIC = "p10"  # this machine does other work too
RANDOM = 3
TOLERANCE = 0.02
DRAWS = 200_000
SHORTEST, MOST_EPOCHS = 2, 30
VALID_BATCHES = 8  # that a path is scored on
MARGIN = 0.9  # of the time, since epochs differ

# small enough for minutes on a core, at the data's 1x28x28
SPACES: dict[str, dict[str, Any]] = {
    "darts": {"channels": 8, "layers": 3},
    "enas-micro": {"channels": 8, "layers": 3, "blocks": 3},
    "mobile-small": {},
}


@dataclass(frozen=True)
class Method:
    """
    Attributes:
        warmup: The share of its epochs that only trains weights.
    """

    strategy: str
    space: str
    warmup: float
    settings: Mapping[str, Any]


METHODS = {
    "darts": Method("darts", "darts", 0.0, {}),
    "pc-darts": Method("pc-darts", "darts", 0.3, {}),
    "enas": Method("enas", "enas-micro", 0.3, {"final_trials": 12}),
    "proxyless": Method("proxyless", "mobile-small", 0.3, {}),
    "proxyless-reinforce": Method(
        "proxyless", "mobile-small", 0.3, {"arch_update": "reinforce", "arch_lr": 0.05}
    ),
}
USUAL = ("darts", "pc-darts", "enas", "proxyless")


@dataclass(frozen=True)
class Job:
    """One method with one seed, as plain data that another process takes."""

    method: str
    seed: int
    table: Path
    args: argparse.Namespace


def space_of(name: str) -> SearchSpace:
    return make_space(name, input_shape=[1, 28, 28], classes=10, **SPACES[name])


def profiled(name: str, folder: Path, args: argparse.Namespace) -> Path:
    """The space's table, measured now unless the folder has it."""
    path = folder / f"{name}.yaml"
    if not path.exists():
        config = make_config(
            {
                "runtime": "onnxruntime", "precision": "fp32", "data": "none",
                "profile": {"min_duration_s": args.profile_seconds, "anchors": 6},
            },
            source="options",
        )  # fmt: skip
        profile(make_context(config, Console(quiet=args.quiet)), space_of(name), path)
    return path


def estimator_for(space: SearchSpace, table: Path) -> Estimator:
    return estimator_of(space, read_table(table), statistic=STATISTIC)


class Search:
    """A search that ends within its seconds."""

    def __init__(self, job: Job, space: SearchSpace, estimator: Estimator) -> None:
        self.job, self.space = job, space
        self.method = METHODS[job.method]
        reach = estimator.range()
        self.bound_ms = reach.low + job.args.latency * (reach.high - reach.low)
        self.bounds = Bounds(lambda: estimator, self.bound_ms)
        self.data = load_data(DATA, seed=job.seed, images=job.args.search_images)

    def run(self) -> tuple[WeightSharing, float]:
        """The strategy at its end, and the seconds that it took, the timing included."""
        began, limit = time.monotonic(), self.job.args.search_seconds
        epochs, longest = self.job.args.search_epochs or SHORTEST, 0.0
        strategy = self.made(epochs)
        if not self.job.args.search_epochs:
            strategy.step()
            longest = time.monotonic() - began
            epochs = min(MOST_EPOCHS, int((MARGIN * limit - longest) / longest))
            # where no more epochs fit in, the shortest search goes on
            strategy = self.made(epochs) if epochs > SHORTEST else strategy
        while not strategy.finished and time.monotonic() - began + longest < limit:
            step = time.monotonic()
            strategy.step()
            longest = max(longest, time.monotonic() - step)
        return strategy, time.monotonic() - began

    def made(self, epochs: int) -> WeightSharing:
        warmup = int(self.method.warmup * epochs)
        changes = {
            "valid_batches": VALID_BATCHES,
            **self.method.settings,
            **settings_of(self.job.args.set),
            "warmup_epochs": warmup,
            "search_epochs": epochs - warmup,
        }
        return make_strategy(
            self.method.strategy,
            self.space,
            task=Classification(),
            train_deployment=self.space.deployment,
            data=self.data.feed(batch_size=64, seed=self.job.seed),
            bounds=self.bounds,
            seed=self.job.seed,
            settings=make_settings(self.method.strategy, changes),
        )


def of_equal_latency(
    space: SearchSpace, estimator: Estimator, winner: Arch, seed: int
) -> tuple[list[Arch], float]:
    """Random architectures whose estimate is the winner's, and how far off they are at most.

    Evenly drawn among those within `TOLERANCE`; where draws find too few, the nearest.
    """
    rng = np.random.default_rng(derived_seed(seed, "random networks"))
    sizes = [len(decision.choices) for decision in space.decisions]
    drawn = rng.integers(0, sizes, (DRAWS, len(sizes)))
    target = estimator.population([winner])[0]
    off = np.abs(estimator.population(drawn) / target - 1)
    near = np.flatnonzero(off <= TOLERANCE)
    order = near if len(near) >= 2 * RANDOM else np.argsort(off, kind="stable")
    chosen: dict[Arch, float] = {}
    for index in order:
        arch = tuple(drawn[index].tolist())
        if arch != winner and len(chosen) < RANDOM:
            chosen[arch] = float(off[index])
    return list(chosen), 100 * max(chosen.values())


def trained_accuracy(space: SearchSpace, arch: Arch, data: DataSet, job: Job) -> float:
    """On the test images, after a training of its own."""
    import torch

    torch.manual_seed(derived_seed(job.seed, "first weights"))
    task = Classification()
    model = space.build(arch, task=task)
    settings = TrainSettings(epochs=job.args.train_epochs, batch_size=64, seed=job.seed)
    feed = data.feed(batch_size=settings.batch_size, seed=job.seed)
    train(model, feed, task=task, settings=settings)
    return evaluate(model, feed.batches("test"), task)["accuracy"]


def supernet_scores(strategy: WeightSharing, archs: Sequence[Arch]) -> list[float]:
    """What the search's own weights say of architectures."""
    score: Evaluator = strategy._evaluator  # type: ignore[attr-defined]  # those of here have one
    found = dict(score([Request(n, arch, 0) for n, arch in enumerate(archs)]))
    values = []
    for number in range(len(archs)):
        metrics = found[number]
        values.append(math.nan if isinstance(metrics, str) else metrics["accuracy"])
    return values


def compared(job: Job) -> dict[str, Any]:
    """One winner, its random networks, and what they come to."""
    import torch

    torch.set_num_threads(job.args.threads)
    space = space_of(METHODS[job.method].space)
    estimator = estimator_for(space, job.table)
    search = Search(job, space, estimator)
    strategy, search_s = search.run()
    winner = strategy.candidates(1)[0]
    archs, off_pct = of_equal_latency(space, estimator, winner, job.seed)
    archs = [winner, *archs]
    data = load_data(DATA, seed=job.seed, images=job.args.train_images)
    began = time.monotonic()
    accuracies = [trained_accuracy(space, arch, data, job) for arch in archs]
    scores = supernet_scores(strategy, archs)
    return {
        "seed": job.seed,
        "winner": round(accuracies[0], 4),
        "random": [round(value, 4) for value in accuracies[1:]],
        "estimated_ms": round(float(estimator.population([winner])[0]), 5),
        "bound_ms": round(search.bound_ms, 5),
        "latency_off_pct": round(off_pct, 2),
        "rank_correlation": _rounded(Agreement(tuple(scores), tuple(accuracies)).spearman),
        "search_s": round(search_s, 1),
        "epochs": strategy.total_steps,
        "was_cut": not strategy.finished,
        "train_s": round((time.monotonic() - began) / len(archs), 1),
        "arch": list(winner),
    }


def summed_up(method: str, seeds: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over the seeds, and the interval of the mean difference."""
    from scipy.stats import t

    gains = np.array([100 * (s["winner"] - float(np.mean(s["random"]))) for s in seeds])
    interval = None
    if len(gains) > 1:
        half = float(t.ppf(0.975, len(gains) - 1)) * float(gains.std(ddof=1)) / len(gains) ** 0.5
        interval = [round(float(gains.mean()) - half, 2), round(float(gains.mean()) + half, 2)]
    known = [s["rank_correlation"] for s in seeds if s["rank_correlation"] is not None]
    return {
        "method": method,
        "space": METHODS[method].space,
        "winner_pct": round(100 * float(np.mean([s["winner"] for s in seeds])), 2),
        "random_pct": round(100 * float(np.mean([s["random"] for s in seeds])), 2),
        "gain_points": round(float(gains.mean()), 2) + 0.0,
        "gain_interval_points": interval,
        "rank_correlation": None if not known else _rounded(float(np.mean(known))),
        "search_s": round(float(np.mean([s["search_s"] for s in seeds])), 1),
        "seeds": list(seeds),
    }


def _rounded(value: float) -> float | None:
    """None where there is no such number: all of one side are equal."""
    return None if math.isnan(value) else round(value, 3)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON line for each method")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(USUAL))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--latency", type=float, default=0.5, help="bound, a share of the range")
    parser.add_argument("--search-seconds", type=float, default=240.0)
    parser.add_argument("--search-epochs", type=int, help="instead of as many as fit")
    parser.add_argument("--search-images", type=int, default=2000)
    parser.add_argument("--train-epochs", type=int, default=6)
    parser.add_argument("--train-images", type=int, default=4000)
    parser.add_argument("--profile-seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--workers", type=int, default=1, help="searches and trainings at a time")
    parser.add_argument("--set", action="append", metavar="NAME=VALUE", help="as for the search")
    parser.add_argument("--folder", type=Path, help="keep the tables here, and take them from here")
    args = parser.parse_args()
    args.quiet = args.json and not sys.stderr.isatty()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        spaces = dict.fromkeys(METHODS[method].space for method in args.methods)
        tables = {name: profiled(name, folder, args) for name in spaces}
        jobs = [
            Job(method, seed, tables[METHODS[method].space], args)
            for method in args.methods
            for seed in range(args.seeds)
        ]
        results: dict[str, list[dict[str, Any]]] = {}
        for job, found in zip(jobs, in_processes(compared, jobs, args.workers), strict=True):
            of_method = results.setdefault(job.method, [])
            of_method.append(found)
            if len(of_method) == args.seeds:
                row = summed_up(job.method, of_method)
                print(json.dumps(row) if args.json else _line(row), flush=True)


def _line(row: Mapping[str, Any]) -> str:
    interval = row["gain_interval_points"]
    known = "" if interval is None else f" ({interval[0]} to {interval[1]})"
    return (
        f"{row['method']} on {row['space']}: {row['winner_pct']} % against {row['random_pct']} %, "
        f"{row['gain_points']:+} points{known}, search {row['search_s']} s"
    )


if __name__ == "__main__":
    main()
