"""``nasdeploy table``: look into tables, compare them, merge them, check and import them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group

from nasdeploy.pipeline.commands.options import FormatOption, StatisticOption
from nasdeploy.pipeline.console import Console, Format, mapping_table, rows_table

if TYPE_CHECKING:
    from nasdeploy.latency_tables.table import LatencyTable

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

TableArgument = Annotated[str, typer.Argument(help="A table's file, or a shipped one: pixel1.")]
_SHOWN_RATIOS = 20


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="table", help="Latency tables: show, diff, merge, check, import.")


@app.command()
def show(
    table: TableArgument, statistic: StatisticOption = None, format: FormatOption = Format.table
) -> None:
    """Show a table's header and rows.

    \b
    Example:
        nasdeploy table show pixel1
    """
    from nasdeploy.latency_tables.table import find_table, read_table
    from nasdeploy.units import format_ms

    path = find_table(table)
    opened = read_table(path)
    chosen = statistic or opened.default_statistic
    values = opened.values(chosen)
    header = {
        "file": str(path),
        "device": opened.device,
        "fingerprint": opened.fingerprint,
        "runtime": opened.runtime,
        "runtime_version": opened.runtime_version,
        "precision": opened.precision,
        "scheme": opened.scheme,
        "threads": opened.threads,
        "origin": opened.origin,
        "source": opened.source,
        "created": opened.created,
        "spaces": [dict(space) for space in opened.spaces],
        "anchors": len(opened.anchors),
        "fits": [dict(fit) for fit in opened.fits],
    }
    rows = [
        [key, format_ms(value), opened.ops[key].n, opened.ops[key].ci95_ms]
        for key, value in values.items()
    ]
    columns = ["operator", chosen, "samples", "95 % interval, ms"]
    console = Console(format)
    console.result(
        {**header, f"{chosen}_ms": values},
        lambda: Group(
            mapping_table(str(opened), header),
            rows_table(f"{len(rows)} operators", columns, rows, right=chosen),
        ),
    )
    _next_of(console, opened, table)


@app.command()
def diff(
    first: TableArgument,
    second: TableArgument,
    statistic: StatisticOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Compare two tables row by row: the second's time by the first's.

    \b
    Example:
        nasdeploy table diff tables/monday.yaml tables/friday.yaml
    """
    from nasdeploy.latency_tables.compare import diff as compare
    from nasdeploy.latency_tables.table import find_table, read_table

    found = compare(
        read_table(find_table(first)), read_table(find_table(second)), statistic=statistic
    )
    console = Console(format)
    for name, (one, other) in found.unlike.items():
        console.warn(f"{name} differs: {one} and {other}; the times are of different things.")
    data = {
        "statistic": found.statistic,
        "geometric_mean": found.geometric_mean,
        "only_first": list(found.only_first),
        "only_second": list(found.only_second),
        "ratios": dict(found.ratios),
    }
    furthest = sorted(found.ratios.items(), key=lambda item: abs(1 - item[1]), reverse=True)
    mean = "unknown" if found.geometric_mean is None else f"{found.geometric_mean:.3f}"
    console.result(
        data,
        lambda: rows_table(
            f"{len(found.ratios)} common rows by {found.statistic}, geometric mean {mean}; "
            f"{len(found.only_first)} only in the first, {len(found.only_second)} only in the "
            "second. Furthest apart:",
            ["operator", "ratio"],
            [[key, f"{ratio:.3f}"] for key, ratio in furthest[:_SHOWN_RATIOS]],
            right="ratio",
        ),
    )
    console.next(f"nasdeploy table merge {first} {second} --into MERGED.yaml")


@app.command()
def merge(
    first: TableArgument,
    second: Annotated[
        str, typer.Argument(help="Another table's file, or a run whose measurements to take over.")
    ],
    into: Annotated[Path, typer.Option("--into", help="Where to write the merged table.")],
    format: FormatOption = Format.table,
) -> None:
    """Make one table of two of the same device and runtime, or of a table and what a run measured.

    Of two rows the newer one stays. A run's own table is never changed by it: the networks that it
    measured become anchors only here.

    \b
    Examples:
        nasdeploy table merge tables/a.yaml tables/b.yaml --into tables/both.yaml
        nasdeploy table merge tables/a.yaml runs/quickstart --into tables/a2.yaml
    """
    from nasdeploy.latency_tables.compare import merge as merge_tables
    from nasdeploy.latency_tables.table import find_table, read_table, write_table
    from nasdeploy.pipeline.run_folder import MANIFEST, RunFolder

    if (Path(second) / MANIFEST).is_file():
        from nasdeploy.pipeline.estimating import open_table
        from nasdeploy.pipeline.run_table import run_table

        opened = open_table(first)
        merged = merge_tables(opened.table, run_table(RunFolder(Path(second)), opened))
    else:
        merged = merge_tables(read_table(find_table(first)), read_table(find_table(second)))
    write_table(merged.table, into)
    data = {
        "table": str(into),
        "added": merged.added,
        "replaced": merged.replaced,
        "kept": merged.kept,
        "anchors_added": merged.anchors_added,
    }
    console = Console(format)
    console.result(data, lambda: mapping_table("Merged", data))
    console.next(f"nasdeploy search --latency 40% --table {into}", wrote=str(into))


@app.command()
def check(table: TableArgument, format: FormatOption = Format.table) -> None:
    """Check a table: its hash, its layout, and that its times can be true.

    \b
    Example:
        nasdeploy table check tables/local-litert-int8.yaml
    """
    from nasdeploy.latency_tables.table import find_table, read_table

    path = find_table(table)
    opened = read_table(path)
    data = {"table": str(path), "operators": len(opened.ops), "anchors": len(opened.anchors)}
    console = Console(format)
    console.result(data, lambda: mapping_table("In order", data))
    _next_of(console, opened, table)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="A table in ProxylessNAS's YAML format.")],
    into: Annotated[Path, typer.Option("--into", help="Where to write.")],
    device: Annotated[str, typer.Option("--device", help="What it was measured on.")],
    format: FormatOption = Format.table,
) -> None:
    """Read a table in the format that ProxylessNAS published.

    \b
    Example:
        nasdeploy table import mobile_trim.yaml --device pixel1 --into tables/pixel1.yaml
    """
    from nasdeploy.latency_tables.proxylessnas_format import read_proxylessnas
    from nasdeploy.latency_tables.table import write_table

    table = read_proxylessnas(source, device=device)
    write_table(table, into)
    data = {"table": str(into), "operators": len(table.ops), "origin": table.origin}
    console = Console(format)
    console.result(data, lambda: mapping_table("Imported", data))
    console.next(f"nasdeploy space range mobile --table {into}", wrote=str(into))


def _next_of(console: Console, table: LatencyTable, name: str) -> None:
    space = table.spaces[0]["name"] if table.spaces else "mobile"
    console.next(f"nasdeploy space range {space} --table {name}")
