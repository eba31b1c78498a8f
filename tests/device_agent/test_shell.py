"""Command lines in the shells that devices have, each run here as a device's shell would."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from targets.box import wait_until
from targets.daemons import need

from nasdeploy.device_agent.process import Output
from nasdeploy.device_agent.shell import (
    Group,
    Reply,
    command_line,
    kill_script,
    new_token,
    plain_line,
)
from nasdeploy.errors import CommandFailed

SHELLS = ("dash", "bash", "mksh", "busybox")


@dataclass(frozen=True)
class Shell:
    program: str
    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        return {"PATH": f"{self.folder}/bin:/usr/bin:/bin"}

    def start(self, line: str) -> subprocess.Popen[bytes]:
        pipe = subprocess.PIPE
        argv = [f"{self.folder}/bin/sh", "-c", line]
        return subprocess.Popen(argv, env=self.environment, stdin=pipe, stdout=pipe, stderr=pipe)

    def line(self, argv: Sequence[str], token: str, *, split: bool = True) -> str:
        folder = f"{self.folder}/run"
        return command_line(argv, token=token, folder=folder, record="record", split=split)

    def run(self, argv: Sequence[str], *, split: bool = True) -> tuple[Reply, Output]:
        token = new_token()
        output = Output(argv, None)
        reply = Reply(token, output, argv[0])
        with self.start(self.line(argv, token, split=split)) as process:
            assert process.stdout is not None and process.stderr is not None
            reply.take(1, process.stdout.read())
            reply.take(2, process.stderr.read())
        return reply, output


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shell]:
    """A PATH on which ``sh`` is this one."""
    need(request.param, boxed=False)
    program = str(shutil.which(request.param))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/sh").symlink_to(program)
    yield Shell(request.param, tmp_path)


def alive(group: Group | str) -> bool:
    number = group if isinstance(group, str) else group.id
    return Path(f"/proc/{number}").exists()


@pytest.mark.parametrize("split", [True, False])
def test_what_a_command_prints_is_told_from_what_is_ours(shell: Shell, split: bool) -> None:
    reply, output = shell.run(["sh", "-c", "printf out; echo err >&2; exit 7"], split=split)
    assert reply.exit_code == 7
    assert (bytes(output.stdout), bytes(output.stderr)) == (b"out", b"err\n")


def test_an_end_by_a_signal_is_told_as_one(shell: Shell) -> None:
    assert shell.run(["sh", "-c", "kill -9 $$"])[0].exit_code == -9


def test_a_program_that_is_not_there_is_told(shell: Shell) -> None:
    assert shell.run(["no-such-program"])[0].missing


def test_arguments_come_through_as_they_are(shell: Shell) -> None:
    odd = "a b; $(echo c) `d` 'e' \"f\" * \\ \n g"
    assert shell.run(["printf", "%s", odd])[1].stdout == odd.encode()


@pytest.mark.parametrize("split", [True, False])
def test_when_the_connection_ends_the_group_is_killed(shell: Shell, split: bool) -> None:
    token = new_token()
    with shell.start(shell.line(["sleep", "60"], token, split=split)) as process:
        assert process.stdin is not None and process.stdout is not None
        group = process.stdout.readline().split()[2].decode()
        assert alive(group)
        process.stdin.close()
        wait_until(lambda: not alive(group), "the end of the command")


def test_a_recorded_group_is_killed_and_a_later_one_of_its_number_is_not(shell: Shell) -> None:
    record = f"{shell.folder}/run/record"
    with shell.start(shell.line(["sleep", "60"], new_token())) as process:
        assert process.stdout is not None
        _, _, number, started, boot = process.stdout.readline().decode().split()
        for other in (Group(number, str(int(started) + 1), boot), Group("2147483", "5", "a-b")):
            kill(shell, *kill_script(f"{shell.folder}/elsewhere", other))
            assert alive(number)
        kill(shell, *kill_script(record, None))
        wait_until(lambda: not alive(number), "the end of the command")
        assert not Path(f"{record}.group").exists()


def kill(shell: Shell, script: str, *args: str) -> None:
    with shell.start(plain_line(script, *args, token=new_token())) as process:
        process.communicate(timeout=20)


def test_a_mark_that_is_none_of_ours_is_refused() -> None:
    reply = Reply("token", Output(["x"], None), "x")
    with pytest.raises(CommandFailed, match="none of ours"):
        reply.take(1, b"token group ; rm -rf /\n")


def test_a_line_without_end_is_refused() -> None:
    reply = Reply("token", Output(["x"], None), "x")
    with pytest.raises(CommandFailed, match="printed a line of over"):
        for _ in range(200):
            reply.take(1, b"x" * 10_000)


def test_marks_are_found_however_the_output_is_cut_into_pieces() -> None:
    text = b"tok group 12 34 ab-cd\none\ntwotok end 3\n"
    for size in range(1, len(text)):
        lines: list[str] = []
        output = Output(["x"], lines.append)
        reply = Reply("tok", output, "x")
        for at in range(0, len(text), size):
            reply.take(1, text[at : at + size])
        assert (lines, reply.exit_code) == (["one", "two"], 3)
        assert reply.group == Group("12", "34", "ab-cd")
