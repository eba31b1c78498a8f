"""Search a space for the best network within the bounds, then ask the device about the best.

The strategy proposes on estimates. What it proposes is exported untrained, since latency hardly
depends on weights, and measured; a candidate that misses the bound becomes an anchor, which
corrects the estimate, and the strategy is asked again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.durable import sha256_file, write_json
from nasdeploy.errors import BoundNotMet, NothingWithinBounds, UsageError
from nasdeploy.latency_tables.estimate import Estimator
from nasdeploy.latency_tables.optimum import check_limits
from nasdeploy.pipeline.data import DataSet
from nasdeploy.pipeline.estimating import (
    OpenedTable,
    count_limits,
    estimator_of,
    goal_of,
    named_arch,
    statistic_of,
)
from nasdeploy.pipeline.measuring import Measurements, NetworkLatency, network_config
from nasdeploy.pipeline.run_folder import RUNS, RunFolder
from nasdeploy.pipeline.simulating import tell_networks
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.files import export_files, network_id, network_jobs
from nasdeploy.search import checkpoint as checkpoints
from nasdeploy.search.loop import Budget, Progress, drive, read_history
from nasdeploy.search.objective import Bounds
from nasdeploy.search.pareto import Sense, write_pareto_csv
from nasdeploy.search.space import Arch, Deployment, SearchSpace, size_of
from nasdeploy.search.strategies import WeightSharing, make_strategy
from nasdeploy.search.strategy import Trial
from nasdeploy.search.task import Classification
from nasdeploy.units import format_ms, parse_latency

if TYPE_CHECKING:
    from torch import Tensor

HOW_LONG = ("steps", "trials", "wall_s", "candidates")


@dataclass(frozen=True)
class Problem:
    """What is searched, for what: everything that a search depends on.

    Attributes:
        train: Shape and classes that the supernet and the winner are trained at.
        identity: Plain data that decides what the search does.
        how_long: What decides how far it goes; with more of it, a finished search goes on.
        supernet_weights: Of a supernet that was trained before, or None.
        statistic: Of every latency in this run.
        bound_ms: The latency bound, a share already resolved; None without one.
    """

    space: SearchSpace
    data: DataSet
    table: OpenedTable
    estimator: Estimator
    train: Deployment
    statistic: str
    bound_ms: float | None
    identity: Mapping[str, Any]
    how_long: Mapping[str, Any]
    supernet_weights: Mapping[str, Tensor] | None

    @property
    def inputs(self) -> dict[str, Any]:
        return {**self.identity, **self.how_long}


def pose(context: Context, space: SearchSpace, data: DataSet, table: OpenedTable) -> Problem:
    """Put the parts of a search together, and refuse at once what cannot be met."""
    config = context.config
    statistic = statistic_of(config, table.table)
    estimator = estimator_of(space, table.table, statistic=statistic)
    bound_ms = None
    if config.bounds.latency is not None:
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
            "table": sha256_file(table.path),
            "bounds": config.bounds.model_dump(),
            "search": config.search.model_dump(exclude={*HOW_LONG, "supernet", "history"}),
            "supernet": sha256_file(supernet) if supernet else None,
            "history": sha256_file(_history_path(config.search.history))
            if config.search.history
            else None,
            "seed": config.seed,
            "runtime": config.runtime,
            "precision": config.precision,
            "threads": config.threads,
        },
        how_long=config.search.model_dump(include=set(HOW_LONG)),
        supernet_weights=_weights(supernet, _supernet_identity(space, train, data)),
    )
    check_limits(bounds_of(context, problem, [estimator]).limits())
    return problem


def bounds_of(context: Context, problem: Problem, live: list[Estimator]) -> Bounds:
    """The bounds on whatever the last of `live` estimates."""
    config = context.config
    others = count_limits(problem.space, config.bounds, config.precision)
    return Bounds(lambda: live[-1], problem.bound_ms, others)


def search(
    context: Context, folder: RunFolder, problem: Problem, measurements: Measurements
) -> dict[str, Any]:
    """Run the strategy and pick the winner; what is returned is what winner/arch.json holds."""
    done = folder.done("search", problem.inputs)
    if done is not None:
        context.console.log("search: done already, its inputs are unchanged")
        return done
    live = [problem.estimator]
    strategy = _strategy(context, problem, live)
    pareto = folder.path / "pareto.csv"
    aside = folder.begin(
        "search", problem.identity, folder.history_path, folder.search_checkpoint,
        folder.supernet_path, pareto, folder.winner, folder.report_path,
    )  # fmt: skip
    context.console.set_aside("The earlier search", aside)
    _announce(context, problem)
    _drive(context, folder, problem, strategy, pareto)
    winner = _winner(context, problem, strategy, live, measurements)
    path = folder.winner / "arch.json"
    if path.exists() and json.loads(path.read_text())["arch"] != winner["arch"]:
        context.console.set_aside(
            "The earlier winner", folder.set_aside("winner", folder.winner, folder.report_path)
        )
    write_json(path, winner)
    folder.finish("search", problem.inputs, winner, path, pareto)
    return winner


def _announce(context: Context, problem: Problem) -> None:
    reach = problem.estimator.range()
    bound = "none" if problem.bound_ms is None else format_ms(problem.bound_ms)
    asked = context.config.bounds.latency
    context.console.log(
        f"Searching {problem.space.name} ({size_of(problem.space):.3g} architectures, "
        f"{format_ms(reach.low)} to {format_ms(reach.high)}) on {problem.table.name}: "
        f"{problem.statistic}, {problem.estimator.describe()}. Bound: {bound}"
        f"{f' ({asked})' if asked and asked.endswith('%') else ''}. Data: {problem.data.name}, "
        f"trained at {'x'.join(map(str, problem.train.input_shape))}."
    )
    for note in problem.data.notes:
        context.console.log(note)


def _supernet_identity(space: SearchSpace, train: Deployment, data: DataSet) -> dict[str, Any]:
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


def _strategy(context: Context, problem: Problem, live: list[Estimator]) -> WeightSharing:
    config = context.config.search
    task = Classification()
    bounds = bounds_of(context, problem, live)
    strategy = make_strategy(
        config.strategy,
        problem.space,
        task=task,
        train_deployment=problem.train,
        data=problem.data.feed(batch_size=config.batch_size, seed=context.config.seed),
        bounds=bounds,
        seed=context.config.seed,
        settings=config.settings,
        evaluator=config.evaluator,
        goal=goal_of(
            problem.space,
            config.goal,
            bounds,
            metric=task.metric,
            precision=context.config.precision,
            target_ms=problem.bound_ms,
        ),
        supernet_weights=problem.supernet_weights,
        history=_history(config.history),
    )
    correlation = getattr(getattr(strategy, "evaluator", None), "rank_correlation", None)
    if correlation is not None:
        context.console.log(
            f"The predictor's rank correlation on held-out trials: {correlation:.3f}"
        )
    return strategy


def _history(run: str | None) -> Sequence[Trial]:
    """The trials of an earlier run, by its name or folder."""
    return () if run is None else read_history(_history_path(run))


def _history_path(run: str) -> Path:
    path = (Path(run) if Path(run).is_dir() else RUNS / run) / "history.jsonl"
    if not path.is_file():
        raise UsageError(f"There is no history {path}; a search writes runs/NAME/history.jsonl.")
    return path


def _drive(
    context: Context,
    folder: RunFolder,
    problem: Problem,
    strategy: WeightSharing,
    pareto: Path,
) -> None:
    config = context.config.search
    steps = min(strategy.total_steps, config.steps or strategy.total_steps)
    budget = Budget(steps, config.trials, config.wall_s)
    context.console.log(
        f"{config.strategy}: {steps} steps at most; how long they take is said after the first"
    )
    with context.console.progress(f"Searching ({config.strategy})") as update:
        update(0, steps)

        def report(progress: Progress) -> None:
            update(round(progress.share * steps, 1), steps, progress.text)

        result = drive(
            strategy,
            budget=budget,
            history=folder.history_path,
            checkpoint=folder.search_checkpoint,
            identity=problem.identity,
            report=report,
        )
    folder.save(search_s=round(result.elapsed_s, 3))
    objectives: dict[str, Sense] = {"accuracy": "max", "latency_ms": "min"}
    objectives |= {name: "min" for name in config.goal.costs}
    write_pareto_csv(pareto, result.history, problem.space, objectives)
    failed = sum(trial.failure is not None for trial in result.history)
    done = f"{len(result.history)} trials ({failed} failed) in {result.elapsed_s:.0f} s"
    if strategy.finished and result.history and "sanity_archs" in result.history[-1].metrics:
        context.console.log(strategy.progress)
    weights = strategy.supernet_weights()
    if weights is None:
        context.console.log(done)
        return
    checkpoints.save(
        folder.supernet_path,
        {"weights": weights},
        identity=_supernet_identity(problem.space, problem.train, problem.data),
    )
    context.console.log(
        f"{done}; the trained supernet is {folder.supernet_path} "
        "(search again with another bound: --supernet)"
    )


def _winner(
    context: Context,
    problem: Problem,
    strategy: WeightSharing,
    live: list[Estimator],
    measurements: Measurements,
) -> dict[str, Any]:
    """The best candidate that holds the bound on the device; without one, on the estimate."""
    device = _device_of(context, problem)
    tried: list[NetworkLatency] = []
    excluded: frozenset[Arch] = frozenset()
    for _ in range(context.config.search.candidates):
        archs = strategy.candidates(1, exclude=excluded)
        if not archs:
            break
        arch = archs[0]
        if not device or problem.bound_ms is None:
            return _described(problem, arch, live[-1], None, tried)
        measured = _measured(context, problem, arch, measurements)
        estimate = live[-1](arch)
        verdict = "within" if measured.within(problem.bound_ms) else "misses"
        context.console.log(
            f"Candidate {len(tried) + 1}: estimated {format_ms(estimate.ms)}, measured "
            f"{format_ms(measured.ms)} ({measured.low_ms:.4g} to {measured.high_ms:.4g}): "
            f"{verdict} {format_ms(problem.bound_ms)}"
        )
        if measured.within(problem.bound_ms):
            return _described(problem, arch, live[-1], measured, tried)
        tried.append(measured)
        excluded |= {arch}
        live.append(live[-1].with_anchor(arch, measured.ms))
    if not tried:
        check_limits(bounds_of(context, problem, live).limits())
        raise NothingWithinBounds(
            f"{context.config.search.strategy} found no network within the bounds."
        )
    raise BoundNotMet(
        f"None of {len(tried)} candidates holds {format_ms(problem.bound_ms or 0)} on "
        f"{context.device.name}; the nearest took {format_ms(min(m.high_ms for m in tried))}. "
        "Loosen the bound, raise search.candidates, or measure the table anew: nasdeploy profile."
    )


def _device_of(context: Context, problem: Problem) -> bool:
    """Whether the table is of the device at hand, so that candidates can be measured there."""
    table = problem.table.table
    if table.origin == "published":
        context.console.log(
            f"{problem.table.name} is {table.origin}: no device to measure candidates on. The "
            "winner stands on an estimate until it is verified on your device."
        )
        return False
    return True


def _measured(
    context: Context, problem: Problem, arch: Arch, measurements: Measurements
) -> NetworkLatency:
    name = network_id(arch)
    tell_networks(context, problem.space, {name: arch})
    files = export_files(
        context,
        network_jobs(problem.space, [arch]),
        quantised_io=False,
        label="Exporting a candidate",
    )
    return measurements.measure(
        context,
        name,
        files[name].path,
        statistic=problem.statistic,
        config=network_config(context),
        label="Measuring a candidate",
    )


def _described(
    problem: Problem,
    arch: Arch,
    estimator: Estimator,
    measured: NetworkLatency | None,
    missed: list[NetworkLatency],
) -> dict[str, Any]:
    estimate, before = estimator(arch), problem.estimator(arch)
    return {
        "space": dict(problem.space.config),
        "arch": list(arch),
        "choices": named_arch(problem.space, arch),
        "train": asdict(problem.train),
        "table": problem.table.name,
        "table_device": problem.table.table.device,
        "table_origin": problem.table.table.origin,
        "statistic": problem.statistic,
        "bound_ms": problem.bound_ms,
        "estimated_ms": estimate.ms,
        "estimated_interval_ms": (
            None if estimate.low_ms is None else [estimate.low_ms, estimate.high_ms]
        ),
        "estimated_before_corrections_ms": before.ms,
        "candidate": None if measured is None else asdict(measured),
        "candidates_that_missed": [asdict(latency) for latency in missed],
    }
