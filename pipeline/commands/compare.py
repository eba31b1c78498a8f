"""``nasdeploy compare``: searches of one problem held against each other."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from nasdeploy.pipeline.commands.options import FormatOption
from nasdeploy.pipeline.console import Console, Format, rows_table


def register(app: typer.Typer) -> None:
    app.command()(compare)


def compare(
    runs: Annotated[list[str], typer.Argument(help="Names or folders of searches.")],
    format: FormatOption = Format.table,
) -> None:
    """Compare strategies over their seeds: quality, significance, cost, convergence, diversity.

    \b
    Example:
        nasdeploy search --latency 40% --strategy bayesian --seeds 5 --name bo
        nasdeploy search --latency 40% --strategy random --seeds 5 --name random
        nasdeploy compare bo-seed0 bo-seed1 random-seed0 random-seed1
    """
    console = Console(format)
    console.loading()

    from rich.console import Group

    from nasdeploy.pipeline.comparing import compare as figures_of

    figures = figures_of(runs)
    console.result(figures, lambda: Group(_strategies(figures), _tests(figures)))
    best = max(figures["strategies"].values(), key=lambda one: one["best_mean"])
    console.next(f"nasdeploy train --run {best['runs'][best['best'].index(max(best['best']))]}")


def _strategies(figures: dict[str, Any]) -> Any:
    columns = [
        "strategy", "seeds", f"best {figures['metric']}", "hypervolume", "trials", "failed",
        "seconds", "to 99 %", "diversity",
    ]  # fmt: skip
    rows = []
    for name, one in figures["strategies"].items():
        deviation = one["best_deviation"]
        spread = "" if deviation is None else f" ± {deviation:.4f}"
        seconds = one["search_s_mean"]
        rows.append(
            [
                name,
                len(one["seeds"]),
                f"{one['best_mean']:.4f}{spread}",
                f"{one['hypervolume_mean']:.4f}",
                f"{one['trials_mean']:.0f}",
                one["failed"],
                "unknown" if seconds is None else f"{seconds:.1f}",
                f"{one['trials_to_99_percent_mean']:.0f}",
                f"{one['diversity_mean']:.2f}",
            ]
        )
    return rows_table("Means over the seeds", columns, rows, right="|".join(columns[1:]))


def _tests(figures: dict[str, Any]) -> Any:
    rows = [
        [
            " and ".join(test["between"]),
            test["ahead"],
            f"{test['p']:.3g}",
            ("yes" if test["significant"] else "no")
            if test["enough_seeds"]
            else "too few seeds to tell",
        ]
        for test in figures["tests"]
    ]
    return rows_table("Mann-Whitney U", ["between", "ahead", "p", "differ at 5 %"], rows)
