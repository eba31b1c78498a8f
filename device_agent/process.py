"""Run a command on this machine: lines as they come, a hard timeout, and nothing left running."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from typing import IO

from nasdeploy.device_agent.device import Finished
from nasdeploy.errors import CommandFailed

MAX_LINE_BYTES = 1 << 20
MAX_STDOUT_BYTES = 64 << 20
MAX_STDERR_BYTES = 64 << 10  # its end is kept: that is where the reason stands
_CHUNK_BYTES = 1 << 16


def run_process(
    argv: Sequence[str],
    *,
    timeout_s: float,
    on_line: Callable[[str], None] | None = None,
) -> Finished:
    """Run `argv` in a process group of its own and wait for it.

    The group is killed when the command ends, at the timeout, and when anything is raised here
    or in `on_line`, a Ctrl-C included: a child of the command doesn't outlive it. What is printed
    is data from elsewhere, so lines and the whole are bounded.

    Raises: `CommandFailed` when the program is not there, at the timeout, and when it prints more
        than is bearable. A non-zero exit is a result.
    """
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(f"{argv[0]} could not be started: {error.strerror}.") from error
    output = Output(argv, on_line)
    try:
        _attend(
            process,
            output,
            command=" ".join(argv),
            deadline=started + timeout_s,
            timeout_s=timeout_s,
        )
    finally:
        # before it is reaped: until then its number cannot belong to another group
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        exit_code = process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()
    return Finished(
        argv=tuple(argv),
        exit_code=exit_code,
        stdout=output.stdout.decode(errors="replace"),
        stderr=output.stderr.decode(errors="replace"),
        elapsed_s=time.monotonic() - started,
    )


class Output:
    """What a command has printed so far, bounded; whole lines go to `on_line` as they come."""

    def __init__(self, argv: Sequence[str], on_line: Callable[[str], None] | None) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._argv = argv
        self._on_line = on_line
        self._line_start = 0

    def take_stdout(self, chunk: bytes) -> None:
        self.stdout += chunk
        while (end := self.stdout.find(b"\n", self._line_start)) >= 0:
            self._emit(end)
            self._line_start = end + 1
        if len(self.stdout) - self._line_start > MAX_LINE_BYTES:
            raise CommandFailed(f"{self._argv[0]} printed a line of over {MAX_LINE_BYTES} bytes.")
        if len(self.stdout) > MAX_STDOUT_BYTES:
            raise CommandFailed(f"{self._argv[0]} printed over {MAX_STDOUT_BYTES} bytes.")

    def take_stderr(self, chunk: bytes) -> None:
        self.stderr += chunk
        del self.stderr[:-MAX_STDERR_BYTES]

    def finish(self) -> None:
        """A last line may come without its newline."""
        if self._line_start < len(self.stdout):
            self._emit(len(self.stdout))
            self._line_start = len(self.stdout)

    def _emit(self, end: int) -> None:
        if self._on_line:
            self._on_line(self.stdout[self._line_start : end].decode(errors="replace"))


def _attend(
    process: subprocess.Popen[bytes],
    output: Output,
    *,
    command: str,
    deadline: float,
    timeout_s: float,
) -> None:
    """Read both pipes until the command has exited, and what is left in them after that."""
    assert process.stdout is not None and process.stderr is not None
    takers: dict[int, Callable[[bytes], None]] = {
        process.stdout.fileno(): output.take_stdout,
        process.stderr.fileno(): output.take_stderr,
    }
    with selectors.DefaultSelector() as selector, _exit_of(process) as exited:
        for pipe in takers:
            os.set_blocking(pipe, False)
            selector.register(pipe, selectors.EVENT_READ)
        selector.register(exited, selectors.EVENT_READ)
        running = True
        while running:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise CommandFailed(f"{command} was stopped at its timeout of {timeout_s:g} s.")
            for key, _ in selector.select(left_s):
                if key.fileobj is exited:
                    running = False
                elif not _drain(key.fd, takers[key.fd]):
                    selector.unregister(key.fd)
    for pipe, take in takers.items():
        while _drain(pipe, take):
            pass
    output.finish()


def _drain(pipe: int, take: Callable[[bytes], None]) -> bool:
    """Read once; False when there is nothing more."""
    try:
        chunk = os.read(pipe, _CHUNK_BYTES)
    except BlockingIOError:
        return False
    take(chunk)
    return bool(chunk)


@contextlib.contextmanager
def _exit_of(process: subprocess.Popen[bytes]) -> Generator[IO[bytes]]:
    """A file that becomes readable when the process has exited; it is not reaped by that."""
    with os.fdopen(os.pidfd_open(process.pid), "rb", buffering=0) as file:
        yield file
