"""The command line: parse, call one function, print; errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType

from nasdeploy.errors import INTERRUPTED_EXIT_CODE

_OUR_FAULT = 1


def main() -> None:
    """Run the command line; the only place where an exception becomes an exit code."""
    try:
        with _interrupts_win():
            code = _run()
    except KeyboardInterrupt:
        sys.stderr.write(
            "Interrupted. What a run or a table holds is kept: the same command goes on from it.\n"
        )
        code = INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        # whoever read our output has enough of it; nor must Python's own flush at the end complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _OUR_FAULT
    sys.exit(code)


def _run() -> int:
    # in here, so that Ctrl-C during the imports ends like any other
    from nasdeploy.pipeline.commands import ending

    code = ending.run_app()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    return code


@contextlib.contextmanager
def _interrupts_win() -> Iterator[None]:
    """What goes wrong after a Ctrl-C went wrong because of it.

    An extension that is being loaded can swallow the interrupt, and what is loaded next then fails
    in a way of its own.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield  # whoever started us ignores it
        return
    seen = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal seen
        seen = True
        signal.default_int_handler(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield
    except Exception:
        if seen:
            raise KeyboardInterrupt from None
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
