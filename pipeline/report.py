"""What a run came to: a table for the terminal, a card beside the files, a page with plots."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from nasdeploy.durable import write_text
from nasdeploy.pipeline.config import RunConfig
from nasdeploy.pipeline.console import mapping_table, rows_table
from nasdeploy.pipeline.run_folder import RunFolder
from nasdeploy.pipeline.stages.problem import Problem
from nasdeploy.search.loop import read_history
from nasdeploy.units import format_bytes, format_ms

RACE = "The finalists"
FINALIST_COLUMNS = ("architecture", "estimated", "epochs", "training loss", "validation")
FILE_COLUMNS = ("file", "measured", "95 % interval", "bound", "accuracy", "drop", "size")


def percent(share: float | None) -> str:
    return "unknown" if share is None else f"{100 * share:.2f} %"


def interval(low: float | None, high: float | None) -> str:
    return "unknown" if low is None or high is None else f"{low:.4g} to {high:.4g} ms"


def marked(latency: Mapping[str, Any]) -> str:
    """A mark on times that are no measurement, for behind the number."""
    origin = latency.get("origin", "measured")
    return "" if origin == "measured" else f", {origin}"


def _reached(finalist: Mapping[str, Any]) -> tuple[str, str]:
    """Training loss and validation accuracy, or why there are none."""
    if finalist["failure"]:
        return "", finalist["failure"]
    return f"{finalist['training_loss']:.4f}", percent(finalist["metrics"]["accuracy"])


@dataclass(frozen=True)
class Summary:
    """The outputs of all stages, as the stages gave them."""

    config: RunConfig
    winner: Mapping[str, Any]
    trained: Mapping[str, Mapping[str, Any]]
    files: Sequence[Mapping[str, Any]]
    measured: Sequence[Mapping[str, Any]]

    def facts(self) -> dict[str, str]:
        """What was asked, what was found, in the order a reader asks."""
        winner, latency = self.winner, self.measured[0]
        bound, asked = winner["bound_ms"], self.config.bounds.latency
        estimated = winner["estimated_interval_ms"] or (None, None)
        verdict = {True: "within the bound", False: "over the bound", None: "no bound"}
        return {
            "bound": "none"
            if bound is None
            else f"{format_ms(bound)} ({winner['statistic']}; asked: {asked})",
            "estimated": f"{format_ms(winner['estimated_ms'])} ({interval(*estimated)})",
            "measured": (
                f"{format_ms(latency['ms'])} ({interval(latency['low_ms'], latency['high_ms'])}; "
                f"{latency['n']} samples, {latency['starts']} starts{marked(latency)}): "
                f"{verdict[latency['within_bound']]}"
            ),
            "architecture": " ".join(winner["choices"].values()),
            "table": str(winner["table"]),
            "candidates measured": str(len(winner["candidates_that_missed"]) + 1),
        }

    def file_rows(self) -> list[tuple[str, ...]]:
        rows: list[tuple[str, ...]] = []
        for file, latency in zip(self.files, self.measured, strict=True):
            parity = file["parity"]
            verdict = {True: "within", False: "over", None: ""}[latency["within_bound"]]
            drop = parity["drop_points"]
            rows.append(
                (
                    file["path"],
                    format_ms(latency["ms"]),
                    interval(latency["low_ms"], latency["high_ms"]),
                    verdict,
                    percent(parity["accuracy"]),
                    "" if drop is None else f"{drop:+.2f}",
                    format_bytes(file["size_bytes"]),
                )
            )
        return rows

    def finalist_rows(self) -> list[tuple[str, ...]]:
        """Those that were trained to choose one by its training loss, best first."""
        return [
            (
                " ".join(finalist["choices"].values()),
                "unknown"
                if finalist["estimated_ms"] is None
                else format_ms(finalist["estimated_ms"]),
                str(finalist["epochs"]),
                *_reached(finalist),
            )
            for finalist in self.winner.get("finalists", [])
        ]

    def accuracy_rows(self) -> list[tuple[str, ...]]:
        """Winner and random networks, trained equally."""
        return [
            (
                name,
                percent(result["test"]["accuracy"]),
                percent(result["validation"]["accuracy"]),
                str(result["epochs"]),
                f"{result['train_s']:.0f} s",
            )
            for name, result in self.trained.items()
        ]

    def render(self) -> Group:
        parts: list[Any] = [mapping_table("The network", self.facts())]
        if self.finalist_rows():
            parts.append(rows_table(RACE, FINALIST_COLUMNS, self.finalist_rows()))
        parts.append(
            rows_table("Its files, on the device", FILE_COLUMNS, self.file_rows(), right="size")
        )
        parts.append(
            rows_table(
                "Trained equally, fp32 on the test set",
                ("network", "test", "validation", "epochs", "time"),
                self.accuracy_rows(),
            )
        )
        parts.append(Text("measured: " + str(self.winner["statistic"]) + ", wall clock"))
        return Group(*parts)

    def to_json(self) -> dict[str, Any]:
        return {
            "winner": dict(self.winner),
            "trained": {name: dict(result) for name, result in self.trained.items()},
            "files": [dict(file) for file in self.files],
            "measured": [dict(latency) for latency in self.measured],
        }


def write_report(summary: Summary, folder: RunFolder, problem: Problem) -> None:
    """card.md for whoever gets the files, report.html for whoever wants to look closer."""
    inputs = summary.to_json()
    card_path = folder.winner / "card.md"
    if folder.done("report", inputs) is not None:
        return
    write_text(card_path, card(summary))
    write_text(folder.report_path, report(summary, folder.history_path, problem))
    folder.finish("report", inputs, {}, card_path, folder.report_path)


def card(summary: Summary) -> str:
    lines = ["# The network", ""]
    lines += [f"- {name}: {value}" for name, value in summary.facts().items()]
    if summary.finalist_rows():
        rows = _markdown(FINALIST_COLUMNS, summary.finalist_rows())
        lines += ["", f"## {RACE}", "", rows]
    lines += ["", "## Files", "", _markdown(FILE_COLUMNS, summary.file_rows())]
    lines += [
        "",
        "How each is fed and read stands in its `.json` sidecar: labels, normalisation, layout, "
        "types and scales.",
        "",
        "## Trained equally within the same bound",
        "",
        _markdown(("network", "test", "validation", "epochs", "time"), summary.accuracy_rows()),
        "",
    ]
    trained, shipped = summary.winner["train"]["classes"], summary.winner["space"]["classes"]
    if trained != shipped:
        lines.append(
            f"It was estimated with {shipped} classes and ships with the data's {trained}.\n"
        )
    return "\n".join(lines)


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    return "\n".join(head + [f"| {' | '.join(row)} |" for row in rows])


def report(summary: Summary, history: Path, problem: Problem) -> str:
    """One self-contained page: plotly's script is in it, so that it opens anywhere."""
    figures = [_trials_figure(history, problem, summary), _cost_figure(problem)]
    first = True
    parts = []
    for figure in figures:
        parts.append(figure.to_html(full_html=False, include_plotlyjs=first))
        first = False
    facts = "".join(
        f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>"
        for k, v in summary.facts().items()
    )
    files = _html_table(FILE_COLUMNS, summary.file_rows())
    accuracy = _html_table(
        ("network", "test", "validation", "epochs", "time"), summary.accuracy_rows()
    )
    finalists = ""
    if summary.finalist_rows():
        rows = _html_table(FINALIST_COLUMNS, summary.finalist_rows())
        finalists = f"<h2>{RACE}</h2>{rows}"
    return _PAGE.format(
        facts=facts, finalists=finalists, files=files, accuracy=accuracy, figures="\n".join(parts)
    )


def _html_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _trials_figure(history: Path, problem: Problem, summary: Summary) -> Any:
    """Every trial by estimated latency and accuracy, the bound, and the winner."""
    import plotly.graph_objects as go

    trials = [t for t in read_history(history) if "accuracy" in t.metrics]
    figure = go.Figure()
    figure.add_scatter(
        x=[t.metrics["latency_ms"] for t in trials],
        y=[t.metrics["accuracy"] for t in trials],
        mode="markers",
        text=[f"trial {t.number}, {t.phase}" for t in trials],
        marker={"color": [t.number for t in trials], "colorscale": "Viridis"},
        name="trials (accuracy on the supernet's weights)",
    )
    if problem.bound_ms is not None:
        figure.add_vline(x=problem.bound_ms, line_dash="dash", annotation_text="bound")
    figure.add_vline(
        x=summary.winner["estimated_ms"], line_dash="dot", annotation_text="winner, estimated"
    )
    figure.update_layout(
        title="Trials", xaxis_title="estimated latency, ms", yaxis_title="accuracy"
    )
    return figure


def _cost_figure(problem: Problem) -> Any:
    """Each operator's latency against its multiply-accumulates: where a device surprises."""
    import plotly.graph_objects as go

    from nasdeploy.search.counters import counted_values

    macs = counted_values(problem.space, "macs")
    assert problem.table is not None  # a run measures one where none is given
    values = problem.table.table.values(problem.statistic)
    keys = [key for key in sorted(macs) if key in values]
    figure = go.Figure()
    figure.add_scatter(
        x=[macs[key] for key in keys],
        y=[values[key] for key in keys],
        mode="markers",
        text=keys,
        name="operators",
    )
    figure.update_xaxes(type="log", title="multiply-accumulates")
    figure.update_yaxes(type="log", title=f"{problem.statistic} latency, ms")
    figure.update_layout(title="Operators: an op far above the others costs more than its work")
    return figure


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>nasdeploy run</title>
<style>
body {{ font-family: system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
th, td {{ text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #ccc; }}
</style></head><body>
<h1>The network</h1><table>{facts}</table>
{finalists}
<h2>Its files, on the device</h2>{files}
<h2>Trained equally within the same bound</h2>{accuracy}
{figures}
</body></html>
"""
