"""From a table and a space to an estimator; from options to bounds.

The one place where commands and stages meet the tables, so that "which table", "which deployment"
and "which statistic" are answered the same way everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.latency_tables.estimate import Estimator, estimator_for
from nasdeploy.latency_tables.optimum import Limit
from nasdeploy.latency_tables.table import LatencyTable, find_table, read_table
from nasdeploy.pipeline.config import BoundsConfig, GoalConfig, RunConfig
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.spaces import make_space

if TYPE_CHECKING:
    from nasdeploy.search.goal import Cost, Goal
    from nasdeploy.search.objective import Bounds


@dataclass(frozen=True, slots=True)
class OpenedTable:
    """A table and where it came from; `name` is how messages call it."""

    name: str
    path: Path
    table: LatencyTable


def open_table(name: str | Path) -> OpenedTable:
    """A table's file, or a shipped one by its name."""
    path = find_table(str(name))
    return OpenedTable(str(name), path, read_table(path))


def space_on_table(wanted: Mapping[str, Any], opened: OpenedTable) -> SearchSpace:
    """The space as the table holds it, with what `wanted` says of it on top.

    Args:
        wanted: The space's name, and parameters that were asked for.
    Raises: `UsageError` if the table holds several deployments of the space that would do.
    """
    name = str(wanted["name"])
    measured = [config for config in opened.table.spaces if config.get("name") == name]
    fitting = [
        config
        for config in measured
        if all(config.get(key) == _plain(value) for key, value in wanted.items())
    ]
    if len(fitting) > 1:
        shapes = sorted("x".join(map(str, c["input_shape"])) for c in fitting)
        raise UsageError(
            f"{opened.name} holds {name} at {', '.join(shapes)}: say which with --input-shape."
        )
    if fitting:
        return make_space(fitting[0])
    return make_space({**(measured[0] if len(measured) == 1 else {}), **wanted})


def _plain(value: Any) -> Any:
    """Tuples as the lists that a YAML file has."""
    return [_plain(part) for part in value] if isinstance(value, tuple | list) else value


def estimator_of(space: SearchSpace, table: LatencyTable, *, statistic: str) -> Estimator:
    """The table's estimator for a space at its deployment, fitted on the anchors of just that."""
    deployment = {name: value for name, value in space.config.items() if name != "name"}
    return estimator_for(
        table,
        space.name,
        deployment,
        space.cost_terms(),
        [len(decision.choices) for decision in space.decisions],
        statistic=statistic,
    )


def named_arch(space: SearchSpace, arch: Arch) -> dict[str, str]:
    """An architecture as a person reads it: decision and choice."""
    return {
        decision.label: decision.choices[choice]
        for decision, choice in zip(space.decisions, arch, strict=True)
    }


def count_limits(space: SearchSpace, bounds: BoundsConfig, precision: str) -> tuple[Limit, ...]:
    """The bounds that no measurement moves."""
    asked: dict[str, int | None] = {
        "params": bounds.params,
        "macs": bounds.flops,
        "memory_bytes": bounds.memory,
        "size_bytes": bounds.size,
    }
    given = {name: limit for name, limit in asked.items() if limit is not None}
    if not given:
        return ()
    from nasdeploy.search.counters import counted_cost

    return tuple(
        Limit(name, counted_cost(space, name, precision=precision), float(limit))
        for name, limit in given.items()
    )


def goal_of(
    space: SearchSpace,
    goal: GoalConfig,
    bounds: Bounds,
    *,
    metric: str,
    precision: str,
    target_ms: float | None,
) -> Goal:
    """What a search is after; costs that no measurement moves are counted.

    Args:
        target_ms: Of latency where the configuration names none: the bound.
    Raises: `UnknownName` for a cost, `UsageError` for a form that lacks what it needs.
    """
    from nasdeploy.search.counters import REDUCE, counted_cost
    from nasdeploy.search.goal import WITHOUT_COSTS, Goal, Preference

    costs: dict[str, Cost] = {}
    usual = () if goal.form in WITHOUT_COSTS else ("latency_ms",)
    for name in goal.costs or usual:
        if name == "latency_ms":
            costs[name] = lambda archs: bounds.estimator().calibrated(archs)
        elif name in REDUCE:
            costs[name] = counted_cost(space, name, precision=precision)
        else:
            raise UnknownName("cost", name, ("latency_ms", *REDUCE))
    targets = dict(goal.targets)
    if "latency_ms" in costs and target_ms is not None:
        targets.setdefault("latency_ms", target_ms)
    return Goal(metric, goal.form, costs, targets, goal.weights, Preference(goal.prefer))


def statistic_of(config: RunConfig, table: LatencyTable) -> str:
    """The bound's statistic; a published table may have no other than its own.

    Raises: `UsageError` if one is named that the table does not have: unlike ones don't compare.
    """
    wanted = config.bounds.statistic
    if wanted is not None:
        table.values(wanted)
    return wanted or table.default_statistic
