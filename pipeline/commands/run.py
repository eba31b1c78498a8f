"""``nasdeploy run`` and ``nasdeploy search``: from a bound to networks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasdeploy.pipeline.commands.grouped import grouped
from nasdeploy.pipeline.commands.options import (
    AllowSimulatedOption,
    DataOption,
    DeviceOption,
    FormatOption,
    NameOption,
    SeedOption,
    SetupOptions,
    SpaceOptions,
    StatisticOption,
    TableOption,
    TargetOptions,
)
from nasdeploy.pipeline.console import Console, Format, mapping_table, rows_table

ReplayOption = Annotated[
    Path | None,
    typer.Option(
        "--measurements", help="Take recorded measurements of this file instead of measuring."
    ),
]


def register(app: typer.Typer) -> None:
    app.command()(grouped(search))
    app.command()(grouped(run))


def run(
    config: Annotated[Path, typer.Argument(help="A run's configuration, YAML.")],
    name: NameOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    *,
    setup: SetupOptions,
    allow_simulated: AllowSimulatedOption = False,
    latency: Annotated[
        str | None, typer.Option("--latency", help="The bound: 100ms, 0.1s or 40%.")
    ] = None,
    measurements: ReplayOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Say that going on is meant; it always does.")
    ] = False,
    format: FormatOption = Format.table,
) -> None:
    """Profile, search, train, export, verify: all of it. The same command goes on after any stop.

    \b
    Examples:
        nasdeploy run examples/quickstart.yaml
        nasdeploy run examples/quickstart.yaml --latency 2ms --name two-ms
    """
    from nasdeploy.pipeline.config import make_config, read_config
    from nasdeploy.pipeline.project import merged
    from nasdeploy.pipeline.run_folder import RUNS

    values = read_config(config).model_dump(exclude_unset=True)
    over = {
        "name": name, "seed": seed, "device": device, "bounds": {"latency": latency},
        "allow_simulated": allow_simulated or None, **setup.values(),
    }  # fmt: skip
    checked = make_config(merged(values, over), source=str(config))
    console = Console(format)
    path = RUNS / (checked.name or config.stem)
    if resume and not (path / "manifest.json").exists():
        console.log(f"{path} is new: there is nothing to go on with.")
    console.log(f"{path}: {config}, seed {checked.seed}")
    console.loading()

    from nasdeploy.pipeline import flow

    summary = flow.run(checked, console, path, replayed=measurements)
    console.result(summary.to_json(), summary.render)
    console.next(f"open {path / 'report.html'}", wrote=f"{path}: winner/, report.html")


def search(
    latency: Annotated[
        str | None, typer.Option("--latency", help="The bound: 100ms, 0.1s or 40%.")
    ] = None,
    data: DataOption = None,
    table: TableOption = None,
    device: DeviceOption = None,
    *,
    setup: SetupOptions,
    allow_simulated: AllowSimulatedOption = False,
    target: TargetOptions,
    space: SpaceOptions,
    statistic: StatisticOption = None,
    strategy: Annotated[
        str | None,
        typer.Option("--strategy", help="proxyless, bayesian, evolution, ...; docs/strategies/."),
    ] = None,
    evaluator: Annotated[
        str | None,
        typer.Option(
            "--evaluator", help="What scores: supernet, training, predictor or published."
        ),
    ] = None,
    goal: Annotated[
        str | None,
        typer.Option("--goal", help="metric, product, additive, weights or pareto."),
    ] = None,
    costs: Annotated[
        list[str] | None,
        typer.Option("--cost", help="Of the goal: latency_ms, params, macs, ...; repeatable."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", help="Budget in steps.")] = None,
    trials: Annotated[int | None, typer.Option("--trials", help="Budget in trials.")] = None,
    wall: Annotated[float | None, typer.Option("--wall-s", help="Budget in seconds.")] = None,
    max_params: Annotated[str | None, typer.Option("--max-params", help="Such as 3M.")] = None,
    max_flops: Annotated[
        str | None, typer.Option("--max-flops", help="Multiply-accumulates, such as 300M.")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option("--max-memory", help="Peak activations, such as 2MB.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option("--max-size", help="Of the weights, such as 4MB.")
    ] = None,
    supernet: Annotated[
        Path | None, typer.Option("--supernet", help="A trained supernet of an earlier run.")
    ] = None,
    history: Annotated[
        str | None,
        typer.Option("--history", help="The run that --evaluator predictor learns from."),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the strategy: NAME=VALUE.")
    ] = None,
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
    from nasdeploy.pipeline.commands.options import settings_of
    from nasdeploy.pipeline.project import config_from

    bounds = {
        "latency": latency, "statistic": statistic, "params": max_params, "flops": max_flops,
        "memory": max_memory, "size": max_size,
    }  # fmt: skip
    config = config_from(
        {
            "name": name, "device": device, **target.values(), **setup.values(),
            "data": data, "table": table, "seed": seed, "bounds": bounds,
            "allow_simulated": allow_simulated or None, "space": space.values(),
            "search": {
                "strategy": strategy, "evaluator": evaluator,
                "goal": {"form": goal, "costs": costs or None},
                "steps": steps, "trials": trials, "wall_s": wall,
                "history": history,
                "supernet": None if supernet is None else str(supernet),
                "settings": settings_of(settings) or None,
            },
        }
    )  # fmt: skip
    console = Console(format)
    console.loading()

    from nasdeploy.pipeline import flow
    from nasdeploy.units import format_ms

    named = config.model_fields_set & {"runtime", "precision", "threads"}
    config, opened = flow.settle_search(
        config, console, asked={field: getattr(config, field) for field in named}
    )
    if seeds is not None:
        found = flow.search_seeds(config, console, opened, seeds, replayed=measurements)
        console.result(
            found,
            lambda: rows_table(
                f"{seeds} searches",
                ["run", "estimated", "architecture"],
                [
                    [name, format_ms(winner["estimated_ms"]), " ".join(winner["choices"].values())]
                    for name, winner in found.items()
                ],
            ),
        )
        console.next(f"nasdeploy compare {' '.join(found)}", wrote=f"runs/{next(iter(found))} ...")
        return
    folder, winner = flow.search_only(config, console, opened, replayed=measurements)
    console.result(winner, lambda: mapping_table("The network", flow.winner_facts(winner)))
    console.next(
        f"nasdeploy train --run {folder.path.name}",
        wrote=f"{folder.path}: winner/arch.json, {winner['file']}, pareto.csv",
    )
