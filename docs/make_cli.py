"""Write docs/cli.md from the --help of every command: ``python docs/make_cli.py``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from typer.testing import CliRunner

from nasdeploy.durable import write_text
from nasdeploy.pipeline.commands.root import app

TARGET = Path(__file__).with_name("cli.md")
HEAD = """# The command line

stdout carries the result (`--format table|json|yaml`), stderr the log and the progress. Every
command ends with where it wrote and the command that comes next. What can be refused is refused
before anything is written; the exit code says of what kind an error is.

This page is written by `python docs/make_cli.py` from the `--help` of every command.
"""


def commands() -> Iterator[tuple[str, ...]]:
    """The arguments of every command, in the order in which they are listed."""
    for command in app.registered_commands:
        yield (_name(command.name, command.callback),)
    for group in app.registered_groups:
        assert group.name is not None
        assert group.typer_instance is not None
        yield (group.name,)
        for command in group.typer_instance.registered_commands:
            yield group.name, _name(command.name, command.callback)


def _name(given: str | None, callback: object) -> str:
    return given or str(getattr(callback, "__name__", ""))


def help_of(arguments: tuple[str, ...]) -> str:
    """As a terminal of 100 columns shows it."""
    ended = CliRunner().invoke(
        app,
        [*arguments, "--help"],
        prog_name="nasdeploy",
        env={"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"},
        max_content_width=100,
    )
    assert ended.exit_code == 0, ended.output
    return "\n".join(line.rstrip() for line in ended.output.strip().splitlines())


def page() -> str:
    parts = [HEAD, "## nasdeploy\n", f"```text\n{help_of(())}\n```\n"]
    for arguments in commands():
        title = " ".join(("nasdeploy", *arguments))
        parts += [f"## {title}\n", f"```text\n{help_of(arguments)}\n```\n"]
    return "\n".join(parts)


if __name__ == "__main__":
    write_text(TARGET, page())
