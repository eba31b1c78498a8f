"""How a command ends: the one line and the exit code of every error."""

from __future__ import annotations

import errno
import os

import typer

from nasdeploy.errors import INTERRUPTED_EXIT_CODE, NasdeployError, OutOfResources, UsageError
from nasdeploy.pipeline.commands.root import app
from nasdeploy.pipeline.console import Console

# typer brings click under a name of its own, which differs between its versions
_ClickUsageError: type[typer.BadParameter] = typer.BadParameter.__bases__[0]

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


def run_app() -> int:
    """Parse the arguments and run the command; returns the exit code.

    Raises: `KeyboardInterrupt`; what is a fault of ours, so that its traceback is seen.
    """
    console = Console()
    try:
        code = app(prog_name="nasdeploy", standalone_mode=False)
    except NasdeployError as error:
        console.error(str(error))
        return error.exit_code
    except _ClickUsageError as error:
        return _misused(error, console)
    except MemoryError:
        return _out_of_memory(console)
    except RuntimeError as error:
        if not any(text in str(error).lower() for text in ("out of memory", "can't allocate")):
            raise
        return _out_of_memory(console)
    except OSError as error:
        return _by_the_system(error, console)
    if code == INTERRUPTED_EXIT_CODE:
        raise KeyboardInterrupt
    return code if isinstance(code, int) else 0


def _misused(error: typer.BadParameter, console: Console) -> int:
    message = error.format_message()
    if "\n" in message:  # a group without a command: its help
        typer.echo(message, err=True)
    else:
        command = error.ctx.command_path if error.ctx else "nasdeploy"
        console.error(f"{message}{'' if message[-1] in '.?)' else '.'} See {command} --help")
    return UsageError.exit_code


def _out_of_memory(console: Console) -> int:
    console.error("Out of memory. Try a smaller batch_size, input shape or space.")
    return OutOfResources.exit_code


def _by_the_system(error: OSError, console: Console) -> int:
    """What the system refuses is the user's to mend; anything else is a fault of ours."""
    where = error.filename or "a temporary file"
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _NO_ROOM:
        console.error(f"{reason}: {where}. Make room, and run the same command again.")
        return OutOfResources.exit_code
    if error.errno == errno.ENOMEM:
        return _out_of_memory(console)
    if error.errno in _NOT_ALLOWED:
        console.error(f"{where}: {reason.lower()}. Move it away, or work in another folder.")
        return UsageError.exit_code
    raise error
