"""The commands, gathered."""

from __future__ import annotations

from typing import Annotated

import typer

import nasdeploy
from nasdeploy.pipeline.commands import (
    compare,
    deploy,
    devices,
    profile,
    run,
    search,
    spaces,
    tables,
)

app = typer.Typer(
    name="nasdeploy",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="""Find the best network that runs within X milliseconds on your device, and ship the file.

\b
    nasdeploy run examples/quickstart.yaml      all of it, on this machine
    nasdeploy profile --device local            measure a space's operators: a latency table
    nasdeploy search --latency 100ms            find networks within the bound
    nasdeploy train                             train the one that holds
    nasdeploy export --precision int8           .pte, .tflite, .onnx, checked against the model
    nasdeploy verify                            run the file on the device; hold it to the bound

\b
Exit codes: 0 done, 1 our fault, 2 usage or bad input, 3 no network meets the bounds, 4 device lost,
5 bound not met on the device, 6 parity or accuracy drop, 7 out of disk or memory, 8 training
diverged, 9 export failed, 130 interrupted.""",
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(nasdeploy.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it and end.")
    ] = False,
) -> None:
    """Set by `help` above: typer shows that text for the root."""


devices.register(app)
profile.register(app)
spaces.register(app)
tables.register(app)
search.register(app)
run.register(app)
compare.register(app)
deploy.register(app)
