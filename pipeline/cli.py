"""The command line: parse, call one function, print; errors become one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import sys

from nasdeploy.errors import INTERRUPTED_EXIT_CODE

_OUR_FAULT = 1


def main() -> None:
    """Run the command line; the only place where an exception becomes an exit code."""
    try:
        # in here, so that Ctrl-C during the imports ends like any other
        from nasdeploy.pipeline.commands import ending

        code = ending.run_app()
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()
    except KeyboardInterrupt:
        sys.stderr.write(
            "Interrupted. What was measured is kept: the same command goes on from it.\n"
        )
        code = INTERRUPTED_EXIT_CODE
    except BrokenPipeError:
        # whoever read our output has enough of it; nor must Python's own flush at the end complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _OUR_FAULT
    sys.exit(code)
