"""What the user sees: results on stdout, the log and the progress on stderr."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console as RichConsole
from rich.console import RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

PROGRESS_LINE_EVERY_S = 10.0
FORECAST_OVER_S = 2.0


class Format(StrEnum):
    table = "table"
    json = "json"
    yaml = "yaml"


Update = Callable[..., None]
"""``update(done, total, text="", left_s=None)`` of a running progress."""


@dataclass
class _Together:
    """What consoles of several devices share.

    Attributes:
        bars: On a terminal there can be only one live display.
        stop: When it is set, whoever reports progress is ended by a `KeyboardInterrupt`.
    """

    bars: Progress | None = None
    stop: threading.Event | None = None


class Console:
    """One for a command; stages are handed it and never print on their own.

    Args:
        format: How `result` writes on stdout.
        quiet: No log and no progress; errors are still printed.
    """

    def __init__(self, format: Format = Format.table, *, quiet: bool = False) -> None:
        self.format = format
        self.quiet = quiet
        self._err = RichConsole(stderr=True, highlight=False)
        self._together = _Together()
        self._prefix = ""

    def named(self, device: str) -> Console:
        """The same, of one among several devices: its lines say of which they are."""
        other = copy(self)
        other._prefix = f"{device}: "
        return other

    @contextlib.contextmanager
    def together(self, stop: threading.Event) -> Iterator[None]:
        """While several named ones are in use, in threads of their own.

        Args:
            stop: Set it to end each of them at its next progress.
        """
        self._together.stop = stop
        try:
            if self._err.is_terminal and not self.quiet:
                with self._new_bars() as self._together.bars:
                    yield
            else:
                yield
        finally:
            self._together.bars = self._together.stop = None

    def log(self, text: str) -> None:
        if not self.quiet:
            self._err.print(escape(self._prefix + text), soft_wrap=True)

    def warn(self, text: str) -> None:
        self._err.print(f"[yellow]warning:[/yellow] {escape(self._prefix + text)}", soft_wrap=True)

    def error(self, text: str) -> None:
        self._err.print(
            f"[bold red]error:[/bold red] {escape(self._prefix + text)}", soft_wrap=True
        )

    def next(self, command: str, *, wrote: str | None = None) -> None:
        """How every command ends: where it wrote, if anywhere, and the command that comes next."""
        if wrote is not None:
            self.log(f"Wrote {wrote}")
        self.log(f"Next: {command}")

    def loading(self) -> None:
        """Say what the next seconds go by with, unless that is done already."""
        if "torch" not in sys.modules:
            self.log("Loading torch: a few seconds")

    def set_aside(self, what: str, aside: Path | None) -> None:
        """Say where results of other inputs are now, if there were any."""
        if aside is not None:
            self.log(f"{what} was made with other settings; it is now in {aside}")

    @contextlib.contextmanager
    def progress(self, label: str) -> Iterator[Update]:
        """A bar with the time that is left.

        Where there is no terminal, lines: the first as soon as there is a forecast of something
        longer than two seconds, then one every ten.
        """
        if self.quiet:
            update: Update = lambda done, total, text="", left_s=None: None  # noqa: E731
            yield self._stoppable(update)
        elif self._err.is_terminal:
            with self._bar(self._prefix + label) as update:
                yield self._stoppable(update)
        else:
            yield self._stoppable(self._lines(label))

    def _stoppable(self, update: Update) -> Update:
        """Another device's thread cannot be interrupted but by itself."""
        stop = self._together.stop
        if stop is None:
            return update

        def update_or_end(*args: Any, **kwargs: Any) -> None:
            if stop.is_set():
                raise KeyboardInterrupt
            update(*args, **kwargs)

        return update_or_end

    def _new_bars(self) -> Progress:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
            TextColumn("{task.fields[text]}"),
        )
        return Progress(*columns, console=self._err, transient=True)

    @contextlib.contextmanager
    def _bar(self, label: str) -> Iterator[Update]:
        shared = self._together.bars
        with contextlib.nullcontext(shared) if shared else self._new_bars() as bar:
            task = bar.add_task(label, total=None, text="", left="")
            start = time.monotonic()

            def update(
                done: float, total: float, text: str = "", left_s: float | None = None
            ) -> None:
                left_s = _left_s(start, done, total) if left_s is None else left_s
                left = "" if left_s is None else f"{left_s:.0f} s left"
                bar.update(task, completed=done, total=total, text=escape(text), left=left)

            try:
                yield update
            finally:
                bar.remove_task(task)

    def _lines(self, label: str) -> Update:
        start = time.monotonic()
        last: float | None = None

        def update(done: float, total: float, text: str = "", left_s: float | None = None) -> None:
            nonlocal last
            now = time.monotonic()
            left_s = _left_s(start, done, total) if left_s is None else left_s
            since_s = now - (start if last is None else last)
            forecast = last is None and left_s is not None and left_s >= FORECAST_OVER_S
            if since_s < PROGRESS_LINE_EVERY_S and not forecast:
                return
            last = now
            eta = f", {left_s:.0f} s left" if left_s is not None else ""
            self.log(f"{label}: {done:g} of {total:g}{eta}{'  ' + text if text else ''}")

        return update

    def result(self, data: Any, render: Callable[[], RenderableType] | None = None) -> None:
        """Write the result of a command: `data` for programs, what `render` makes for people."""
        if self.format is Format.json:
            sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
        elif self.format is Format.yaml or render is None:
            sys.stdout.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
        else:
            out = RichConsole(highlight=False, width=None if sys.stdout.isatty() else 120)
            out.print(render())
        sys.stdout.flush()


def _left_s(start: float, done: float, total: float) -> float | None:
    """Seconds left at the pace so far."""
    return (time.monotonic() - start) / done * (total - done) if done else None


def rows_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: str = ""
) -> Table:
    """A table for people; `right` names the columns of numbers, with | between them."""
    table = Table(title=escape(title), title_justify="left")
    for column in columns:
        numeric = column in right.split("|")
        table.add_column(escape(column), justify="right" if numeric else "left")
    for row in rows:
        table.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    return table


def mapping_table(title: str, values: Mapping[str, object]) -> Table:
    """Two columns: a name and its value."""
    table = Table(title=escape(title), title_justify="left", show_header=False)
    for name, value in values.items():
        table.add_row(escape(name), "unknown" if value is None else escape(str(value)))
    return table
