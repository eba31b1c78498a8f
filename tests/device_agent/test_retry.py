"""Waiting for a device that went away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nasdeploy.device_agent.retry import Patience, persist
from nasdeploy.errors import CommandFailed, DeviceUnreachable

SHORT = Patience(first_wait_s=0.01, longest_wait_s=0.02, give_up_after_s=0.1)


def failing(times: int, error: Exception) -> Callable[[], str]:
    left = [error] * times

    def work() -> str:
        if left:
            raise left.pop()
        return "done"

    return work


def test_a_device_that_comes_back_is_waited_for_and_each_wait_is_told() -> None:
    said: list[str] = []
    work = failing(2, DeviceUnreachable("It is away."))
    assert persist(work, patience=SHORT, on_wait=said.append) == "done"
    assert said == [
        "It is away. Trying again in 0.01 s.",
        "It is away. Trying again in 0.02 s.",
    ]


def test_one_that_does_not_come_back_is_given_up_with_what_was_tried() -> None:
    with pytest.raises(DeviceUnreachable, match=r"It is away\. It was tried \d+ times in 0 s"):
        persist(failing(1000, DeviceUnreachable("It is away.")), patience=SHORT)


def test_while_there_is_progress_it_is_never_given_up() -> None:
    done = 0
    work = failing(50, DeviceUnreachable("It is away."))

    def progress() -> int:
        nonlocal done
        done += 1
        return done

    assert persist(work, patience=SHORT, progress=progress) == "done"


def test_what_was_refused_is_not_tried_again() -> None:
    said: list[str] = []
    with pytest.raises(CommandFailed):
        persist(failing(1, CommandFailed("No.")), patience=SHORT, on_wait=said.append)
    assert said == []
