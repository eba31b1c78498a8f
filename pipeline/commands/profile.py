"""``nasdeploy profile``: measure a space's operators on a device, into a table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nasdeploy.pipeline.commands.options import (
    ClassesOption,
    DeviceOption,
    FormatOption,
    InputShapeOption,
    PrecisionOption,
    RunnerOption,
    RuntimeOption,
    SeedOption,
    SpaceOption,
    ThreadsOption,
    WidthOption,
    space_values,
)
from nasdeploy.pipeline.console import Console, Format, mapping_table


def register(app: typer.Typer) -> None:
    app.command()(profile)


def profile(
    device: DeviceOption = None,
    runtime: RuntimeOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = None,
    runner: RunnerOption = None,
    space: SpaceOption = None,
    input_shape: InputShapeOption = None,
    classes: ClassesOption = None,
    width: WidthOption = None,
    samples: Annotated[
        int | None, typer.Option("--samples", help="Of each operator, at least.")
    ] = None,
    duration: Annotated[
        float | None, typer.Option("--duration-s", help="Of measuring, at least.")
    ] = None,
    anchors: Annotated[
        int | None, typer.Option("--anchors", help="Whole networks measured beside the operators.")
    ] = None,
    workers: Annotated[int | None, typer.Option("--workers", help="Exporting processes.")] = None,
    table: Annotated[
        Path | None, typer.Option("--table", help="Where to write; tables/... without.")
    ] = None,
    seed: SeedOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on behind the last complete round.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew; what there was is moved aside.")
    ] = False,
    format: FormatOption = Format.table,
) -> None:
    """Measure every operator of a space on a device; write a latency table.

    \b
    Examples:
        nasdeploy profile --device local --runtime litert --precision int8
        nasdeploy profile --space mobile --input-shape 3x96x96 --classes 10
        nasdeploy profile --resume
    """
    from nasdeploy.errors import UsageError
    from nasdeploy.pipeline.project import config_from, table_path

    if resume and overwrite:
        raise UsageError("--resume goes on and --overwrite begins anew: give one of them.")
    config = config_from(
        {
            "device": device, "runtime": runtime, "precision": precision, "threads": threads,
            "runner": runner, "seed": seed,
            "space": space_values(space, input_shape, classes, width) or None,
            "profile": {
                "min_samples": samples, "min_duration_s": duration, "anchors": anchors,
                "workers": workers,
            },
        },
        needs_data=False,
    )  # fmt: skip

    console = Console(format)
    console.loading()

    from nasdeploy.pipeline import flow
    from nasdeploy.pipeline.stages.profile import profile as measure_table
    from nasdeploy.pipeline.stages.profile import set_aside

    made = flow.space_for(config, None)
    path = table or table_path(config, made.deployment.input_shape)
    context = flow.make_context(config, console, resume=resume)
    if overwrite:
        set_aside(path)
    measured = measure_table(context, made, path)
    facts = {
        "table": str(path),
        "operators": len(measured.ops),
        "anchors": len(measured.anchors),
        "device": measured.fingerprint,
        "fits": [dict(fit) for fit in measured.fits],
    }
    console.result(facts, lambda: mapping_table("Profile", facts))
    console.next(
        f"nasdeploy search --latency 40% --table {path}",
        wrote=f"{path}, its raw samples beside it",
    )
