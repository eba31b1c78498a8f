"""What can go wrong, as a tree. The number is the exit code of the command line.

* NasdeployError            1   the CLI prints it without a traceback
  + UsageError              2   the request is wrong; the same call fails again
    - UnknownName
    - BadInput                  a file, an image, a table that cannot be used as it is
  + NothingWithinBounds     3   no network of the space meets the bounds
  + DeviceError             4   something between this machine and the device
    - DeviceUnreachable         transient: worth another try
    - CommandFailed             it ran and said no
  + BoundNotMet             5   measured on the device, and too slow
  + ParityError             6   the file does not do what the model does
  + OutOfResources          7   disk or memory
  + TrainingDiverged        8   a loss that is not finite
  + ExportError             9   the model cannot be expressed in that format
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

INTERRUPTED_EXIT_CODE = 130


class NasdeployError(Exception):
    """Base of every error raised on purpose.

    The message is one line that says what, where, and the next command to run.
    """

    exit_code = 1


class UsageError(NasdeployError):
    """The request cannot be carried out as asked."""

    exit_code = 2


class UnknownName(UsageError):
    """A name that no registry has; says what there is, and what was likely meant."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known) or 'none'}.")


class BadInput(UsageError):
    """A file that was handed over and cannot be used: damaged, empty, or of another kind."""


class NothingWithinBounds(NasdeployError):
    """No network of the space meets the bounds; the message carries the reachable range."""

    exit_code = 3


class DeviceError(NasdeployError):
    """Something between this machine and the device."""

    exit_code = 4


class DeviceUnreachable(DeviceError):
    """The device did not answer. Worth another try."""


class CommandFailed(DeviceError):
    """A command ran on the device and exited non-zero."""


class BoundNotMet(NasdeployError):
    """The device was asked, and the network is slower than the bound."""

    exit_code = 5


class ParityError(NasdeployError):
    """An exported file differs from the model it came from by more than is allowed."""

    exit_code = 6


class OutOfResources(NasdeployError):
    """The disk or the memory is full."""

    exit_code = 7


class TrainingDiverged(NasdeployError):
    """The loss is no longer a finite number."""

    exit_code = 8


class ExportError(NasdeployError):
    """The model cannot be expressed in the target format."""

    exit_code = 9
