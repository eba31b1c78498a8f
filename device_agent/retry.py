"""Waiting for a device that went away: the one place where anything is tried again."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from nasdeploy.errors import DeviceUnreachable

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a device that went away is waited for.

    Attributes:
        first_wait_s: Before the second try; each wait is twice as long as the one before it.
        longest_wait_s: No wait is longer.
        give_up_after_s: Since it was last of use. A phone takes about a minute to start again.
    """

    first_wait_s: float = 0.5
    longest_wait_s: float = 10.0
    give_up_after_s: float = 180.0


def persist(
    work: Callable[[], Result],
    *,
    patience: Patience,
    progress: Callable[[], int] = lambda: 0,
    on_wait: Callable[[str], None] = lambda text: None,
) -> Result:
    """Do `work`, and again while it ends with `DeviceUnreachable`; no other error is tried again.

    `work` has to go on behind what is already done, or to be the same when done twice.

    Args:
        progress: How much is done; when it has grown, the limit and the waits start anew.
        on_wait: Told before each wait, for the user.
    Raises: the last `DeviceUnreachable`, with how often it was tried.
    """
    done, tries, wait_s, since = progress(), 0, patience.first_wait_s, time.monotonic()
    while True:
        try:
            return work()
        except DeviceUnreachable as error:
            if progress() > done:
                done, tries, wait_s, since = (
                    progress(), 0, patience.first_wait_s, time.monotonic(),
                )  # fmt: skip
            tries += 1
            left_s = since + patience.give_up_after_s - time.monotonic()
            if wait_s > left_s:
                times = "once" if tries == 1 else f"{tries} times"
                raise DeviceUnreachable(
                    f"{error} It was tried {times} in {time.monotonic() - since:.0f} s."
                ) from error
            on_wait(f"{error} Trying again in {wait_s:g} s.")
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, patience.longest_wait_s)
