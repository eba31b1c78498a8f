"""``nasdeploy profile``: measure a space's operators on one device or several, into tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasdeploy.pipeline.commands.grouped import grouped
from nasdeploy.pipeline.commands.options import (
    DevicesOption,
    FormatOption,
    SeedOption,
    SetupOptions,
    SpaceOptions,
    TargetOptions,
)
from nasdeploy.pipeline.console import Console, Format, mapping_table

if TYPE_CHECKING:
    from rich.console import RenderableType

    from nasdeploy.pipeline.config import RunConfig
    from nasdeploy.pipeline.several import Outcome


def register(app: typer.Typer) -> None:
    app.command()(grouped(profile))


def profile(
    device: DevicesOption = None,
    *,
    target: TargetOptions,
    setup: SetupOptions,
    space: SpaceOptions,
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

    Several devices are measured at once, each into a table of its own; one that fails doesn't
    stop the others, and the exit code is the highest of theirs.

    \b
    Examples:
        nasdeploy profile --device local --runtime litert --precision int8
        nasdeploy profile --device pixel --device pi --space mobile --input-shape 3x96x96
        nasdeploy profile --resume
    """
    from nasdeploy.errors import UsageError
    from nasdeploy.pipeline.project import config_from

    names: list[str | None] = []
    names.extend(dict.fromkeys(device or ()))
    if resume and overwrite:
        raise UsageError("--resume goes on and --overwrite begins anew: give one of them.")
    if table is not None and len(names) > 1:
        raise UsageError("--table names one file, and each of several devices has its own.")
    profiling = {
        "min_samples": samples, "min_duration_s": duration, "anchors": anchors, "workers": workers
    }  # fmt: skip
    configs = [
        config_from(
            {
                "device": name, **target.values(), **setup.values(), "seed": seed,
                "space": space.values(), "profile": profiling,
            },
            needs_data=False,
        )
        for name in names or [None]
    ]  # fmt: skip
    console = Console(format)
    console.loading()
    _measure(configs, console, table=table, resume=resume, overwrite=overwrite)


def _measure(
    configs: list[RunConfig], console: Console, *, table: Path | None, resume: bool, overwrite: bool
) -> None:
    from nasdeploy.pipeline import flow
    from nasdeploy.pipeline.project import table_path
    from nasdeploy.pipeline.several import Profile, profile_all

    space = flow.space_for(configs[0], None)
    shape = space.deployment.input_shape
    profiles = [
        Profile(config, space, table or table_path(config, shape), resume, overwrite)
        for config in configs
    ]
    done = profile_all(profiles, console)
    facts = [outcome.facts() for outcome in done]
    console.result(facts if len(facts) > 1 else facts[0], lambda: _shown(facts))
    tables = [str(outcome.profile.table) for outcome in done if outcome.measured]
    if tables:
        console.next(_search(done), wrote=f"{', '.join(tables)}; raw samples beside it")
    code = max(outcome.exit_code for outcome in done)
    if code:
        raise typer.Exit(code)


def _search(outcomes: list[Outcome]) -> str:
    """The command that comes next: on the first table that was measured."""
    first = next(outcome for outcome in outcomes if outcome.measured)
    command = f"nasdeploy search --latency 40% --table {first.profile.table}"
    if first.profile.config.device != "local":
        command += f" --device {first.profile.config.device}"
    if first.measured and first.measured.origin != "measured":
        command += " --allow-simulated"
    return command


def _shown(facts: list[dict[str, Any]]) -> RenderableType:
    from rich.console import Group

    shown = [
        {**each, "fits": _in_words(each["fits"])} if "fits" in each else each for each in facts
    ]
    return Group(*(mapping_table("Profile", each) for each in shown))


def _in_words(fits: list[dict[str, Any]]) -> str:
    """How far each statistic's estimate is off the networks that it was not fitted on."""
    from statistics import median

    return "; ".join(
        f"{fit['statistic']} off by {median(map(abs, errors)):.2g} %, leaving one out"
        for fit in fits
        if (errors := fit.get("leave_one_out_errors_pct"))
    )
