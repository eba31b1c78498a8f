"""``nasdeploy train``, ``export``, ``verify`` and ``bench``: from the winner to a proven file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nasdeploy.pipeline.commands.grouped import grouped
from nasdeploy.pipeline.commands.options import (
    DeviceOption,
    FormatOption,
    RunOption,
    SetupOptions,
    StatisticOption,
)
from nasdeploy.pipeline.console import Console, Format, mapping_table, rows_table

RuntimesOption = Annotated[
    list[str] | None, typer.Option("--runtime", help="Of the file; may be given several times.")
]
PrecisionsOption = Annotated[
    list[str] | None, typer.Option("--precision", help="fp32 or int8; may be given several times.")
]


def register(app: typer.Typer) -> None:
    app.command()(train)
    app.command()(export)
    app.command()(grouped(verify))
    app.command()(grouped(bench))


def train(
    run: RunOption = None,
    epochs: Annotated[int | None, typer.Option("--epochs", help="Passes over the data.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of the trainer: NAME=VALUE.")
    ] = None,
    baselines: Annotated[
        int | None,
        typer.Option("--random-baselines", help="Random networks of the bound, trained equally."),
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Train the winner of a search.

    \b
    Examples:
        nasdeploy train
        nasdeploy train --run quickstart --epochs 100 --set learning_rate=0.05
    """
    console = Console(format)
    console.loading()

    from nasdeploy.pipeline.commands.options import settings_of
    from nasdeploy.pipeline.opened_run import open_run, train_only

    changed = {**settings_of(settings), **({"epochs": epochs} if epochs is not None else {})}
    opened = open_run(
        run, {"train": {"settings": changed or None, "random_baselines": baselines}}, console
    )
    trained = train_only(opened)
    rows = [
        [name, f"{r['test']['accuracy']:.2%}", f"{r['test']['top5']:.2%}", r["epochs"]]
        for name, r in trained.items()
    ]
    console.result(
        trained,
        lambda: rows_table("On the test set", ["network", "top-1", "top-5", "epochs"], rows),
    )
    console.next(
        f"nasdeploy export --run {opened.name}", wrote=f"{opened.folder.winner}/weights.pt"
    )


def export(
    run: RunOption = None,
    runtime: RuntimesOption = None,
    precision: PrecisionsOption = None,
    max_drop: Annotated[
        float | None, typer.Option("--max-drop", help="Points of accuracy that int8 may cost.")
    ] = None,
    calibration_images: Annotated[
        int | None, typer.Option("--calibration-images", help="Training images for int8.")
    ] = None,
    format: FormatOption = Format.table,
) -> None:
    """Export the trained winner, and hold each file against the model that it came from.

    \b
    Examples:
        nasdeploy export --precision int8
        nasdeploy export --runtime litert --runtime executorch --precision fp32 --precision int8
    """
    console = Console(format)
    console.loading()

    from nasdeploy.pipeline.opened_run import export_only, open_run
    from nasdeploy.pipeline.report import percent
    from nasdeploy.units import format_bytes

    sections: dict[str, Any] = {
        "export": {
            "runtimes": runtime,
            "precisions": precision,
            "max_drop_points": max_drop,
            "calibration_images": calibration_images,
        }
    }
    opened = open_run(run, sections, console)
    config = opened.config.export
    files = export_only(
        opened, config.runtimes if runtime else None, config.precisions if precision else None
    )
    rows = []
    for file in files:
        parity = file["parity"]
        sqnr = parity["sqnr_db"]
        delegated = file["delegated_share"]
        rows.append(
            [
                file["path"],
                format_bytes(file["size_bytes"]),
                "equal" if sqnr is None else f"{sqnr:.1f} dB",
                f"{parity['max_abs']:.3g}",
                percent(parity["top1_agreement"]),
                percent(parity["accuracy"]),
                "unknown" if delegated is None else f"{delegated:.0%}",
            ]
        )
    columns = ["file", "size", "SQNR", "max abs", "agreement", "accuracy", "delegated"]
    console.result(files, lambda: rows_table("Against the model", columns, rows))
    console.next(f"nasdeploy verify --run {opened.name}", wrote=str(opened.folder.winner))


def verify(
    run: RunOption = None,
    device: DeviceOption = None,
    *,
    setup: SetupOptions,
    format: FormatOption = Format.table,
) -> None:
    """Run the exported files on the device, and hold the searched one against the bound.

    Exit code 5 if it does not hold it. Each call measures anew.

    \b
    Example:
        nasdeploy verify --device local
    """
    console = Console(format)
    console.loading()

    from nasdeploy.pipeline.opened_run import open_run, verify_only
    from nasdeploy.pipeline.report import interval
    from nasdeploy.units import format_ms

    opened = open_run(run, {"device": device, **setup.values()}, console)
    measured = verify_only(opened)
    rows = [
        [
            entry["file"],
            format_ms(entry["ms"]),
            interval(entry["low_ms"], entry["high_ms"]),
            {True: "within the bound", False: "over the bound", None: "no bound"}[
                entry["within_bound"]
            ],
        ]
        for entry in measured
    ]
    title = f"{measured[0]['statistic']}, {measured[0]['starts']} process starts"
    console.result(
        measured, lambda: rows_table(title, ["file", "measured", "95 % interval", ""], rows)
    )
    chosen = f"{opened.folder.winner}/{measured[0]['file']}"
    console.next(
        f"ship {chosen} with the .json beside it", wrote=f"{opened.folder.winner}/measured.json"
    )


def bench(
    file: Annotated[Path, typer.Argument(help="A .pte, .tflite or .onnx file.")],
    device: DeviceOption = None,
    *,
    setup: SetupOptions,
    threads: Annotated[int, typer.Option("--threads", help="Worker threads.")] = 1,
    samples: Annotated[int, typer.Option("--samples", help="At least.")] = 50,
    statistic: StatisticOption = None,
    energy: Annotated[
        bool, typer.Option("--energy", help="Of an inference too, where the device tells it.")
    ] = False,
    format: FormatOption = Format.table,
) -> None:
    """Measure any model file on a device.

    \b
    Examples:
        nasdeploy bench model.tflite --device local --threads 2
        nasdeploy bench model.tflite --device pixel --cpus big --energy
    """
    console = Console(format)
    console.loading()

    from nasdeploy.pipeline.opening import open_named
    from nasdeploy.pipeline.stages.bench import bench as measure_file

    name = device or "local"
    opened = open_named(
        name, cpus=setup.cpus, max_temp_c=setup.max_temp, runner=setup.runner
    )  # fmt: skip
    data = measure_file(
        file, console, opened=opened, threads=threads, samples=samples,
        statistic=statistic or "median", meter=open_named(name).device if energy else None,
    )  # fmt: skip
    console.result(data, lambda: mapping_table(str(file), data))
    runtime = data["runtime"].split()[0]
    console.next(f"nasdeploy profile --device {device or 'local'} --runtime {runtime}")
