"""``nasdeploy run``: from images and a bound to the file that holds it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasdeploy.pipeline.commands.grouped import grouped
from nasdeploy.pipeline.commands.options import (
    AllowSimulatedOption,
    DeviceOption,
    FormatOption,
    NameOption,
    ReplayOption,
    SeedOption,
    SetupOptions,
)
from nasdeploy.pipeline.console import Console, Format


def register(app: typer.Typer) -> None:
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
