"""Search a space for the best network within the bounds, then ask the device about the best.

The strategy proposes on estimates. Where several finalists are asked for, the best are raced, since
scores from shared weights tell apart what differs much and hardly the best from the second best.
What comes first is exported untrained, since latency hardly depends on weights, and measured; a
candidate that misses the bound becomes an anchor, which corrects the estimate, and the next
finalist is taken; when there is none left, the strategy is asked again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nasdeploy.durable import write_json
from nasdeploy.errors import BoundNotMet, NothingWithinBounds
from nasdeploy.latency_tables.estimate import Estimator
from nasdeploy.latency_tables.optimum import check_limits
from nasdeploy.pipeline.estimating import goal_of, named_arch
from nasdeploy.pipeline.measuring import (
    Measurements,
    NetworkLatency,
    network_config,
    usual_sentinel_ms,
)
from nasdeploy.pipeline.run_folder import RunFolder
from nasdeploy.pipeline.simulating import tell_networks
from nasdeploy.pipeline.stages.baselines import TrainedBeside
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.files import export_files, network_id, network_jobs
from nasdeploy.pipeline.stages.problem import (
    Problem,
    bounds_of,
    history_path,
    live_estimators,
    supernet_identity,
)
from nasdeploy.pipeline.stages.race import LOOKED_AT, Finalist, race, unlike
from nasdeploy.search import checkpoint as checkpoints
from nasdeploy.search.encodings import canonical_hash
from nasdeploy.search.loop import Budget, Progress, drive, read_history
from nasdeploy.search.objective import Bounds
from nasdeploy.search.pareto import Sense, write_pareto_csv
from nasdeploy.search.space import Arch, SearchSpace, size_of
from nasdeploy.search.strategies import WeightSharing, make_strategy
from nasdeploy.search.strategy import Trial
from nasdeploy.search.task import Classification
from nasdeploy.units import format_ms

Quiet = Callable[[], AbstractContextManager[None]]


def search(
    context: Context,
    folder: RunFolder,
    problem: Problem,
    measurements: Measurements,
    *,
    beside: TrainedBeside | None = None,
) -> dict[str, Any]:
    """Run the strategy and pick the winner; what is returned is what winner/arch.json holds.

    Args:
        beside: Begins with the strategy, goes on behind it, and stands still while candidates are
            measured.
    """
    done = folder.done("search", problem.inputs)
    if done is not None:
        context.console.log("search: done already, its inputs are unchanged")
        return done
    live = live_estimators(problem)
    strategy = _strategy(context, problem, live)
    pareto = folder.path / "pareto.csv"
    aside = folder.begin(
        "search", problem.identity, folder.history_path, folder.search_checkpoint,
        folder.supernet_path, pareto, folder.winner, folder.report_path,
    )  # fmt: skip
    context.console.set_aside("The earlier search", aside)
    _announce(context, problem)
    beside = beside or TrainedBeside(list, active=False)
    with beside.working() as cores_taken:
        _drive(context, folder, problem, strategy, pareto)
        finalists = _finalists(context, folder, problem, strategy, cores_taken)
    winner = _winner(
        context, problem, strategy, finalists, live, measurements, quiet=beside.standing_still
    )
    winner["finalists"] = [_raced(problem, live[0] if live else None, f) for f in finalists]
    path = folder.winner / "arch.json"
    if path.exists() and json.loads(path.read_text())["arch"] != winner["arch"]:
        context.console.set_aside(
            "The earlier winner", folder.set_aside("winner", folder.winner, folder.report_path)
        )
    write_json(path, winner)
    folder.finish("search", problem.inputs, winner, path, pareto)
    return winner


def _announce(context: Context, problem: Problem) -> None:
    context.console.log(
        f"Searching {problem.space.name} ({size_of(problem.space):.3g} architectures"
        f"{_told(context, problem)}. Data: {problem.data.name}, "
        f"trained at {'x'.join(map(str, problem.train.input_shape))}."
    )
    for note in problem.data.notes:
        context.console.log(note)


def _told(context: Context, problem: Problem) -> str:
    """What is known of latencies, within and behind the parenthesis of an announcement."""
    if problem.table is None or problem.estimator is None:
        return ") without a table: latencies are not known"
    reach = problem.estimator.range()
    bound = "none" if problem.bound_ms is None else format_ms(problem.bound_ms)
    asked = context.config.bounds.latency
    return (
        f", {format_ms(reach.low)} to {format_ms(reach.high)}) on {problem.table.name}: "
        f"{problem.statistic}, {problem.estimator.describe()}. Bound: {bound}"
        f"{f' ({asked})' if asked and asked.endswith('%') else ''}"
    )


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
    return () if run is None else read_history(history_path(run))


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
    objectives: dict[str, Sense] = {"accuracy": "max"}
    objectives |= {} if problem.table is None else {"latency_ms": "min"}
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
        identity=supernet_identity(problem.space, problem.train, problem.data),
    )
    context.console.log(
        f"{done}; the trained supernet is {folder.supernet_path} "
        "(search again with another bound: --supernet)"
    )


def _finalists(
    context: Context,
    folder: RunFolder,
    problem: Problem,
    strategy: WeightSharing,
    cores_taken: int,
) -> list[Finalist]:
    """The best of the strategy in the order of their race; none where no race is asked for."""
    count = context.config.search.finalists
    if count < 2:
        return []
    known: dict[str, Arch] = {}
    for arch in strategy.candidates(LOOKED_AT * count):
        known.setdefault(canonical_hash(problem.space, arch), arch)
    archs = unlike([*known.values()], count)
    return (
        race(context, folder, problem.space, problem.data, archs, cores_taken=cores_taken)
        if len(archs) > 1
        else []
    )


def _raced(problem: Problem, estimator: Estimator | None, finalist: Finalist) -> dict[str, Any]:
    """A finalist as arch.json and the report have it."""
    return {
        "choices": named_arch(problem.space, finalist.arch),
        "estimated_ms": None if estimator is None else estimator(finalist.arch).ms,
        **asdict(finalist),
        "arch": list(finalist.arch),
    }


def next_candidate(
    strategy: WeightSharing, finalists: Sequence[Finalist], bounds: Bounds, tried: frozenset[Arch]
) -> Arch | None:
    """The first finalist that still holds the bounds on the estimate, else the strategy's best."""
    left = [f.arch for f in finalists if f.failure is None and f.arch not in tried]
    if left:
        admitted = bounds.admits(left)
        if admitted.any():
            return left[int(admitted.argmax())]
    # what could not be trained is no winner either
    failed = frozenset(f.arch for f in finalists if f.failure is not None)
    found = strategy.candidates(1, exclude=tried | failed)
    return found[0] if found else None


def _winner(
    context: Context,
    problem: Problem,
    strategy: WeightSharing,
    finalists: Sequence[Finalist],
    live: list[Estimator],
    measurements: Measurements,
    *,
    quiet: Quiet,
) -> dict[str, Any]:
    """The best candidate that holds the bound on the device; without one, on the estimate."""
    device = _device_of(context, problem)
    bounds = bounds_of(context, problem, live)
    tried: list[NetworkLatency] = []
    excluded: frozenset[Arch] = frozenset()
    for _ in range(context.config.search.candidates):
        arch = next_candidate(strategy, finalists, bounds, excluded)
        if arch is None:
            break
        if not device or problem.bound_ms is None:
            return _described(problem, arch, live, None, tried)
        measured = measure_untrained(
            context, problem.space, arch, measurements,
            statistic=problem.statistic, bound_ms=problem.bound_ms, usual_ms=_usual_ms(problem),
            quiet=quiet,
        )  # fmt: skip
        estimate = live[-1](arch)
        verdict = "within" if measured.within(problem.bound_ms) else "misses"
        context.console.log(
            f"Candidate {len(tried) + 1}: estimated {format_ms(estimate.ms)}, measured "
            f"{format_ms(measured.ms)} ({measured.low_ms:.4g} to {measured.high_ms:.4g}): "
            f"{verdict} {format_ms(problem.bound_ms)}"
        )
        if measured.within(problem.bound_ms):
            return _described(problem, arch, live, measured, tried)
        tried.append(measured)
        excluded |= {arch}
        live.append(live[-1].with_anchor(arch, measured.ms))
    if not tried:
        check_limits(bounds.limits())
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
    if problem.table is None:
        return False
    table = problem.table.table
    if table.origin == "published":
        context.console.log(
            f"{problem.table.name} is {table.origin}: no device to measure candidates on. The "
            "winner stands on an estimate until it is verified on your device."
        )
        return False
    return True


def measure_untrained(
    context: Context,
    space: SearchSpace,
    arch: Arch,
    measurements: Measurements,
    *,
    statistic: str,
    bound_ms: float | None = None,
    usual_ms: float | None = None,
    quiet: Quiet = nullcontext,
) -> NetworkLatency:
    """The latency of an architecture with random weights, on the device.

    Args:
        quiet: Entered while it is measured.
    """
    name = network_id(arch)
    tell_networks(context, space, {name: arch})
    files = export_files(
        context,
        network_jobs(space, [arch]),
        quantised_io=False,
        label="Exporting a candidate",
    )
    with quiet():
        return measurements.measure(
            context,
            name,
            files[name].path,
            statistic=statistic,
            config=network_config(context, usual_ms=usual_ms),
            label="Measuring a candidate",
            bound_ms=bound_ms,
        )


def _described(
    problem: Problem,
    arch: Arch,
    live: Sequence[Estimator],
    measured: NetworkLatency | None,
    missed: list[NetworkLatency],
) -> dict[str, Any]:
    return {
        "space": dict(problem.space.config),
        "arch": list(arch),
        "choices": named_arch(problem.space, arch),
        "train": asdict(problem.train),
        **_estimates(problem, arch, live),
        "candidate": None if measured is None else asdict(measured),
        "candidates_that_missed": [asdict(latency) for latency in missed],
    }


def _usual_ms(problem: Problem) -> float | None:
    return None if problem.table is None else usual_sentinel_ms(problem.table.table)


def _estimates(problem: Problem, arch: Arch, live: Sequence[Estimator]) -> dict[str, Any]:
    """What the table says of the winner; None for all of it without one."""
    table = problem.table
    estimate, before = (live[-1](arch), live[0](arch)) if live else (None, None)
    known = estimate is not None and estimate.low_ms is not None
    return {
        "table": None if table is None else table.name,
        "table_device": None if table is None else table.table.device,
        "table_origin": None if table is None else table.table.origin,
        "sentinel_ms": _usual_ms(problem),
        "statistic": problem.statistic,
        "bound_ms": problem.bound_ms,
        "estimated_ms": None if estimate is None else estimate.ms,
        "estimated_interval_ms": (
            [estimate.low_ms, estimate.high_ms] if estimate is not None and known else None
        ),
        "estimated_before_corrections_ms": None if before is None else before.ms,
    }
