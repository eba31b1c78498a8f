"""``nasdeploy space``: which spaces there are, what is in one, and what it can reach."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nasdeploy.pipeline.commands.options import (
    ClassesOption,
    FormatOption,
    InputShapeOption,
    StatisticOption,
    TableOption,
    WidthOption,
    space_values,
)
from nasdeploy.pipeline.console import Console, Format, mapping_table, rows_table

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)

SpaceArgument = Annotated[str, typer.Argument(help="A space's name.")]


def register(root: typer.Typer) -> None:
    root.add_typer(app, name="space", help="Search spaces: list them, look into one, its range.")


@app.command("list")
def list_spaces(format: FormatOption = Format.table) -> None:
    """List the spaces.

    \b
    Example:
        nasdeploy space list
    """
    console = Console(format)
    console.loading()

    from nasdeploy.search.space import size_of
    from nasdeploy.search.spaces import SPACES, make_space

    rows = []
    for name in SPACES:
        space = make_space(name)
        rows.append(
            {
                "space": name,
                "decisions": len(space.decisions),
                "architectures": f"{size_of(space):.3g}",
                "deploys at": "x".join(map(str, space.deployment.input_shape)),
                "classes": space.deployment.classes,
            }
        )
    columns = list(rows[0])
    console.result(rows, lambda: rows_table("", columns, [list(row.values()) for row in rows]))
    console.next(f"nasdeploy space show {rows[0]['space']}")


@app.command()
def show(
    space: SpaceArgument,
    input_shape: InputShapeOption = None,
    classes: ClassesOption = None,
    width: WidthOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Show a space's decisions and how many operators a table of it holds.

    \b
    Example:
        nasdeploy space show mobile --input-shape 3x96x96 --classes 10
    """
    console = Console(format)
    console.loading()

    from nasdeploy.search.space import size_of
    from nasdeploy.search.spaces import make_space

    made = make_space(space_values(space, input_shape, classes, width))
    keys = {key for term in made.cost_terms() for key in term.keys}
    data: dict[str, Any] = {
        "space": dict(made.config),
        "architectures": size_of(made),
        "operators": len(keys),
        "decisions": {decision.label: list(decision.choices) for decision in made.decisions},
    }
    title = f"{space}: {data['architectures']:.3g} architectures of {len(keys)} operators"
    console.result(
        data,
        lambda: mapping_table(title, {d.label: " ".join(d.choices) for d in made.decisions}),
    )
    console.next(f"nasdeploy profile --device local --space {space}")


@app.command("range")
def range_(
    space: SpaceArgument,
    table: TableOption = None,
    input_shape: InputShapeOption = None,
    classes: ClassesOption = None,
    width: WidthOption = None,
    statistic: StatisticOption = None,
    format: FormatOption = Format.table,
) -> None:
    """Print exactly what a space can reach on a table: its fastest and its slowest network.

    \b
    Example:
        nasdeploy space range mobile --table pixel1
    """
    console = Console(format)
    console.loading()

    from nasdeploy.pipeline.estimating import (
        estimator_of,
        named_arch,
        open_table,
        space_on_table,
    )
    from nasdeploy.pipeline.project import newest_table, project_values
    from nasdeploy.units import format_ms

    path = table or newest_table(str(project_values().get("device", "local")))
    opened = open_table(path)
    made = space_on_table(space_values(space, input_shape, classes, width), opened)
    by = statistic or opened.table.default_statistic
    estimator = estimator_of(made, opened.table, statistic=by)
    reach = estimator.range()
    data: dict[str, Any] = {
        "space": dict(made.config),
        "table": opened.name,
        "statistic": by,
        "low_ms": reach.low,
        "high_ms": reach.high,
        "fastest": named_arch(made, reach.lowest),
        "slowest": named_arch(made, reach.highest),
        "estimate": estimator.describe(),
    }
    console.result(
        data,
        lambda: rows_table(
            f"{space} on {opened.name}: {by}, {opened.table.runtime}, {estimator.describe()}",
            ["network", "estimate", "choices"],
            [
                ["fastest", format_ms(reach.low), " ".join(data["fastest"].values())],
                ["slowest", format_ms(reach.high), " ".join(data["slowest"].values())],
            ],
            right="estimate",
        ),
    )
    console.next(f"nasdeploy search --latency 40% --table {opened.name}")
