"""What is searched, for what: the parts of a search put together, before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.durable import sha256_file
from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.estimate import Estimator
from nasdeploy.latency_tables.optimum import check_limits
from nasdeploy.pipeline.config import RunConfig
from nasdeploy.pipeline.data import DataSet
from nasdeploy.pipeline.estimating import OpenedTable, count_limits, estimator_of, statistic_of
from nasdeploy.pipeline.run_folder import RUNS
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.search import checkpoint as checkpoints
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Deployment, SearchSpace
from nasdeploy.units import parse_latency

if TYPE_CHECKING:
    from torch import Tensor

HOW_LONG = ("steps", "trials", "wall_s", "candidates", "finalists", "finalist_epochs")


@dataclass(frozen=True)
class Problem:
    """What is searched, for what: everything that a search depends on.

    Attributes:
        table, estimator: None where no latency is asked for: the search then knows none.
        train: Shape and classes that the supernet and the winner are trained at.
        identity: Plain data that decides what the search does.
        how_long: What decides how far it goes, a race of the best at its end included; with more
            of it, a finished search goes on.
        supernet_weights: Of a supernet that was trained before, or None.
        statistic: Of every latency in this run.
        bound_ms: The latency bound, a share already resolved; None without one.
    """

    space: SearchSpace
    data: DataSet
    table: OpenedTable | None
    estimator: Estimator | None
    train: Deployment
    statistic: str
    bound_ms: float | None
    identity: Mapping[str, Any]
    how_long: Mapping[str, Any]
    supernet_weights: Mapping[str, Tensor] | None

    @property
    def inputs(self) -> dict[str, Any]:
        return {**self.identity, **self.how_long}


def pose(context: Context, space: SearchSpace, data: DataSet, table: OpenedTable | None) -> Problem:
    """Put the parts of a search together, and refuse at once what cannot be met."""
    config = context.config
    statistic: str = config.bounds.statistic or "median"
    estimator = None
    if table is not None:
        statistic = statistic_of(config, table.table)
        estimator = estimator_of(space, table.table, statistic=statistic)
    bound_ms = None
    if config.bounds.latency is not None:
        if estimator is None:
            raise UsageError(
                f"A latency of {config.bounds.latency} needs a table: pixel1, or measure one: "
                "nasdeploy profile."
            )
        reach = estimator.range()
        bound_ms = parse_latency(config.bounds.latency).resolve_ms(reach.low, reach.high)
    channels = space.deployment.input_shape[0]
    train = Deployment((channels, *data.input_shape[1:]), len(data.classes))
    supernet = Path(config.search.supernet) if config.search.supernet else None
    problem = Problem(
        space=space,
        data=data.converted(train.input_shape),
        table=table,
        estimator=estimator,
        train=train,
        statistic=statistic,
        bound_ms=bound_ms,
        identity={
            "space": dict(space.config),
            "data": data.sha256,
            "table": None if table is None else sha256_file(table.path),
            "bounds": config.bounds.model_dump(),
            "search": config.search.model_dump(exclude={*HOW_LONG, "supernet", "history"}),
            "supernet": sha256_file(supernet) if supernet else None,
            "history": sha256_file(history_path(config.search.history))
            if config.search.history
            else None,
            "seed": config.seed,
            "runtime": config.runtime,
            "precision": config.precision,
            "threads": config.threads,
        },
        how_long=_how_long(config),
        supernet_weights=_weights(supernet, supernet_identity(space, train, data)),
    )
    check_limits(bounds_of(context, problem, live_estimators(problem)).limits())
    return problem


def _how_long(config: RunConfig) -> dict[str, Any]:
    how_long = config.search.model_dump(include=set(HOW_LONG))
    if config.search.finalists > 1:
        # they are trained as the winner is
        how_long["train"] = config.train.model_dump(exclude={"workers", "random_baselines"})
    return how_long


def live_estimators(problem: Problem) -> list[Estimator]:
    """To which measured candidates add corrected ones; empty without a table."""
    return [] if problem.estimator is None else [problem.estimator]


def bounds_of(context: Context, problem: Problem, live: list[Estimator]) -> Bounds:
    """The bounds on whatever the last of `live` estimates."""
    config = context.config
    others = count_limits(problem.space, config.bounds, config.precision)
    return Bounds((lambda: live[-1]) if live else None, problem.bound_ms, others)


def supernet_identity(space: SearchSpace, train: Deployment, data: DataSet) -> dict[str, Any]:
    """What a trained supernet is of: nothing of the bound or the table."""
    layout = {k: v for k, v in space.config.items() if k not in ("input_shape", "classes")}
    return {
        "space": layout,
        "train_shape": list(train.input_shape),
        "classes": train.classes,
        "data": data.sha256,
    }


def _weights(supernet: Path | None, identity: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
    if supernet is None:
        return None
    stored = checkpoints.load(supernet, identity=identity)
    if stored is None:
        raise UsageError(f"There is no supernet {supernet}; a search writes runs/NAME/supernet.pt.")
    weights: Mapping[str, Tensor] = stored["weights"]
    return weights


def history_path(run: str) -> Path:
    path = (Path(run) if Path(run).is_dir() else RUNS / run) / "history.jsonl"
    if not path.is_file():
        raise UsageError(f"There is no history {path}; a search writes runs/NAME/history.jsonl.")
    return path
