"""``nasdeploy search``: networks within the bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from nasdeploy.pipeline.commands.grouped import grouped
from nasdeploy.pipeline.commands.options import (
    AllowSimulatedOption,
    DataOption,
    DeviceOption,
    FormatOption,
    NameOption,
    ReplayOption,
    SeedOption,
    SetupOptions,
    SpaceOptions,
    StatisticOption,
    TableOption,
    TargetOptions,
    settings_of,
)
from nasdeploy.pipeline.console import Console, Format, mapping_table, rows_table


@dataclass(frozen=True, slots=True)
class BoundOptions:
    """What a network may cost."""

    latency: Annotated[
        str | None, typer.Option("--latency", help="The bound: 100ms, 0.1s or 40%.")
    ] = None
    statistic: StatisticOption = None
    max_params: Annotated[str | None, typer.Option("--max-params", help="Such as 3M.")] = None
    max_flops: Annotated[
        str | None, typer.Option("--max-flops", help="Multiply-accumulates, such as 300M.")
    ] = None
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", help="Peak activations, such as 2MB.")
    ] = None
    max_size: Annotated[
        str | None, typer.Option("--max-size", help="Of the weights, such as 4MB.")
    ] = None

    def values(self) -> dict[str, object]:
        """The `bounds` section of a configuration."""
        return {
            "latency": self.latency, "statistic": self.statistic, "params": self.max_params,
            "flops": self.max_flops, "memory": self.max_memory, "size": self.max_size,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class MethodOptions:
    """What proposes, what scores, what is best, and when to stop."""

    strategy: Annotated[
        str | None,
        typer.Option("--strategy", help="proxyless, bayesian, evolution, ...; docs/strategies/."),
    ] = None
    evaluator: Annotated[
        str | None,
        typer.Option(
            "--evaluator", help="What scores: supernet, training, predictor or published."
        ),
    ] = None
    goal: Annotated[
        str | None,
        typer.Option("--goal", help="metric, loss, product, additive, weights or pareto."),
    ] = None
    costs: Annotated[
        list[str] | None,
        typer.Option("--cost", help="Of the goal: latency_ms, params, macs, ...; repeatable."),
    ] = None
    steps: Annotated[int | None, typer.Option("--steps", help="Budget in steps.")] = None
    trials: Annotated[int | None, typer.Option("--trials", help="Budget in trials.")] = None
    wall: Annotated[float | None, typer.Option("--wall-s", help="Budget in seconds.")] = None
    finalists: Annotated[
        int | None,
        typer.Option("--finalists", help="So many of the best are trained a little to choose one."),
    ] = None
    supernet: Annotated[
        Path | None, typer.Option("--supernet", help="A trained supernet of an earlier run.")
    ] = None
    history: Annotated[
        str | None,
        typer.Option("--history", help="The run that --evaluator predictor learns from."),
    ] = None
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the strategy: NAME=VALUE.")
    ] = None

    def values(self) -> dict[str, object]:
        """The `search` section of a configuration."""
        return {
            "strategy": self.strategy, "evaluator": self.evaluator,
            "goal": {"form": self.goal, "costs": self.costs or None},
            "steps": self.steps, "trials": self.trials, "wall_s": self.wall,
            "history": self.history, "finalists": self.finalists,
            "supernet": None if self.supernet is None else str(self.supernet),
            "settings": settings_of(self.settings) or None,
        }  # fmt: skip


def register(app: typer.Typer) -> None:
    app.command()(grouped(search))


def search(
    *,
    bounds: BoundOptions,
    data: DataOption = None,
    table: TableOption = None,
    device: DeviceOption = None,
    setup: SetupOptions,
    allow_simulated: AllowSimulatedOption = False,
    target: TargetOptions,
    space: SpaceOptions,
    method: MethodOptions,
    name: NameOption = None,
    seed: SeedOption = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", min=1, help="So many searches, each with another seed.")
    ] = None,
    measurements: ReplayOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Find the best network within the bounds on a table, and measure it on the device.

    \b
    Examples:
        nasdeploy search --latency 100ms
        nasdeploy search --table pixel1 --latency 80ms --data fashion-mnist-mini
        nasdeploy search --latency 40% --strategy evolution --supernet runs/quickstart/supernet.pt
        nasdeploy search --latency 40% --strategy bayesian --seeds 5 --name bo
    """
    from nasdeploy.pipeline.project import config_from

    config = config_from(
        {
            "name": name, "device": device, **target.values(), **setup.values(),
            "data": data, "table": table, "seed": seed, "bounds": bounds.values(),
            "allow_simulated": allow_simulated or None, "space": space.values(),
            "search": method.values(),
        }
    )  # fmt: skip
    console = Console(format)
    console.loading()

    from nasdeploy.pipeline import flow

    named = config.model_fields_set & {"runtime", "precision", "threads"}
    config, opened = flow.settle_search(
        config, console, asked={field: getattr(config, field) for field in named}
    )
    if seeds is not None:
        found = flow.search_seeds(config, console, opened, seeds, replayed=measurements)
        console.result(found, lambda: _several(found))
        console.next(f"nasdeploy compare {' '.join(found)}", wrote=f"runs/{next(iter(found))} ...")
        return
    folder, winner = flow.search_only(config, console, opened, replayed=measurements)
    console.result(winner, lambda: mapping_table("The network", flow.winner_facts(winner)))
    console.next(
        f"nasdeploy train --run {folder.path.name}",
        wrote=f"{folder.path}: winner/arch.json, {winner['file']}, pareto.csv",
    )


def _several(found: Mapping[str, Mapping[str, Any]]) -> Table:
    from nasdeploy.units import format_ms

    return rows_table(
        f"{len(found)} searches",
        ["run", "estimated", "architecture"],
        [
            [name, format_ms(winner["estimated_ms"]), " ".join(winner["choices"].values())]
            for name, winner in found.items()
        ],
    )
