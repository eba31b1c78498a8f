"""Commands on this machine: what is printed, what is bounded, what is killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from nasdeploy.device_agent import process
from nasdeploy.device_agent.process import run_process
from nasdeploy.errors import CommandFailed


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def ended(pid: int) -> bool:
    """Whether a process is gone, at the latest in a moment; a zombie is gone."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_command_that_says_no_is_a_result() -> None:
    done = run_process(["sh", "-c", "echo out; echo err >&2; exit 3"], timeout_s=10)
    assert (done.exit_code, done.stdout, done.stderr) == (3, "out\n", "err\n")


def test_lines_arrive_as_they_are_printed() -> None:
    arrived: list[tuple[str, float]] = []
    code = (
        "import time\nfor i in 1, 2:\n print(i, flush=True); time.sleep(0.5)\nprint('end', end='')"
    )
    run_process(
        python(code), timeout_s=10, on_line=lambda line: arrived.append((line, time.monotonic()))
    )
    assert [line for line, _ in arrived] == ["1", "2", "end"]
    assert arrived[1][1] - arrived[0][1] > 0.3


def test_arguments_reach_the_command_as_they_are() -> None:
    odd = "$(touch x); 'quoted' \"twice\" *"
    assert run_process(["echo", odd], timeout_s=10).stdout == odd + "\n"


def test_at_the_timeout_the_command_is_killed_with_its_children() -> None:
    children: list[str] = []
    with pytest.raises(CommandFailed, match=r"timeout of 0.5 s"):
        run_process(
            ["sh", "-c", "sleep 60 & echo $!; wait"], timeout_s=0.5, on_line=children.append
        )
    assert ended(int(children[0]))


def test_a_child_does_not_outlive_its_command() -> None:
    done = run_process(["sh", "-c", "sleep 60 & echo $!"], timeout_s=10)
    assert done.elapsed_s < 5
    assert ended(int(done.stdout))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_at_a_line_kills_the_command(error: type[BaseException]) -> None:
    pids: list[int] = []

    def refuse(line: str) -> None:
        pids.append(int(line))
        raise error

    with pytest.raises(error):
        run_process(["sh", "-c", "echo $$; exec sleep 60"], timeout_s=30, on_line=refuse)
    assert ended(pids[0])


def test_a_line_without_end_is_refused() -> None:
    with pytest.raises(CommandFailed, match="printed a line of over"):
        run_process(["sh", "-c", "tr '\\0' x < /dev/zero"], timeout_s=30)


def test_output_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "MAX_STDOUT_BYTES", 1 << 20)
    with pytest.raises(CommandFailed, match="printed over"):
        run_process(["yes"], timeout_s=30)


def test_of_a_long_stderr_the_end_is_kept() -> None:
    code = "import sys; sys.stderr.write('x' * 200_000 + 'the reason')"
    done = run_process(python(code), timeout_s=30)
    assert len(done.stderr) == process.MAX_STDERR_BYTES
    assert done.stderr.endswith("the reason")


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(CommandFailed, match="no-such-program could not be started: No such file"):
        run_process(["no-such-program"], timeout_s=1)


def test_nothing_is_left_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        run_process(["true"], timeout_s=10)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
