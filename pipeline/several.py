"""Profiles of several devices at once, each in a thread and with a line of progress of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasdeploy.errors import NasdeployError, UsageError
from nasdeploy.latency_tables.table import LatencyTable
from nasdeploy.pipeline.config import RunConfig
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.flow import make_context
from nasdeploy.pipeline.opening import OpenedDevice
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.pacing import SharedPacing
from nasdeploy.pipeline.stages.profile import profile, set_aside
from nasdeploy.search.space import SearchSpace

LAST_WORDS_S = 5.0
"""How long a device that is being measured may take to stop at Ctrl-C."""

_LOOK_UP_S = 0.5
"""A Ctrl-C just before waiting begins does not end the waiting: it is looked up now and then."""


@dataclass(frozen=True)
class Profile:
    """What is asked for one device."""

    config: RunConfig
    space: SearchSpace
    table: Path
    resume: bool
    overwrite: bool


@dataclass(frozen=True)
class Outcome:
    """How the profile of one device ended; `measured` is None where `error` is not."""

    profile: Profile
    measured: LatencyTable | None = None
    error: NasdeployError | None = None

    @property
    def exit_code(self) -> int:
        return 0 if self.error is None else self.error.exit_code

    def facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"name": self.profile.config.device}
        if self.measured is None:
            return {**facts, "exit": self.exit_code, "error": str(self.error)}
        return {
            **facts,
            "table": str(self.profile.table),
            "operators": len(self.measured.ops),
            "anchors": len(self.measured.anchors),
            "device": self.measured.fingerprint,
            "origin": self.measured.origin,
            "fits": [dict(fit) for fit in self.measured.fits],
        }


def profile_all(profiles: Sequence[Profile], console: Console) -> list[Outcome]:
    """Measure on every device; one that fails is an outcome among the others.

    With one device alone its error is raised.

    Raises: `UsageError` where two are the same device; `KeyboardInterrupt` when all that answer
        have stopped.
    """
    if len(profiles) == 1:
        return [Outcome(profiles[0], measured=_profile(profiles[0], console))]
    contexts = [
        make_context(p.config, console.named(p.config.device), resume=p.resume) for p in profiles
    ]
    _refuse_twins([context.opened for context in contexts])
    return _Together(profiles, contexts, console).run()


def _profile(wanted: Profile, console: Console) -> LatencyTable:
    context = make_context(wanted.config, console, resume=wanted.resume)
    if wanted.overwrite:
        set_aside(wanted.table)
    return profile(context, wanted.space, wanted.table)


def _refuse_twins(devices: Sequence[OpenedDevice]) -> None:
    """Two names of one device would wait for each other."""
    seen: dict[str, str] = {}
    for opened in devices:
        device = opened.device
        if device.place in seen:
            raise UsageError(
                f"{seen[device.place]} and {device.name} are the same device. Name it once."
            )
        seen[device.place] = device.name


class _Together:
    """The threads, what came of them, and stopping them."""

    def __init__(
        self, profiles: Sequence[Profile], contexts: Sequence[Context], console: Console
    ) -> None:
        self._profiles = profiles
        self._contexts = contexts
        self._console = console
        self._stop = threading.Event()
        self._pacing = SharedPacing([context.device for context in contexts], self._stop)
        # not join(): interrupted, it takes the thread for ended (CPython 3.11 and 3.12)
        self._ended = [threading.Event() for _ in profiles]
        self._done: dict[int, Outcome] = {}
        self._bugs: list[BaseException] = []

    def run(self) -> list[Outcome]:
        threads = [
            threading.Thread(
                target=self._one, args=(number,), name=context.device.name, daemon=True
            )
            for number, context in enumerate(self._contexts)
        ]
        with self._console.together(self._stop):
            try:
                for thread in threads:
                    thread.start()
                for ended in self._ended:
                    while not ended.wait(_LOOK_UP_S):
                        pass
            except KeyboardInterrupt:
                self._console.log("Stopping; what was measured is kept.")
                self._stop.set()
                self._leave(threads)
                raise
        if self._bugs:
            raise self._bugs[0]
        return [self._done[number] for number in range(len(threads))]

    def _leave(self, threads: Sequence[threading.Thread]) -> None:
        """Wait for each to end, but not for a device that has nothing to say.

        A thread that is left ends with this process, and so does its connection; what runs at the
        other end is killed there when the connection is gone.
        """
        until = time.monotonic() + LAST_WORDS_S
        for thread, ended in zip(threads, self._ended, strict=True):
            begun = thread.ident is not None
            if begun and not ended.wait(max(0.0, until - time.monotonic())):
                self._console.log(f"{thread.name} does not answer and is left as it is.")

    def _one(self, number: int) -> None:
        wanted, context = self._profiles[number], self._contexts[number]
        try:
            if wanted.overwrite:
                set_aside(wanted.table)
            measured = profile(context, wanted.space, wanted.table, pacing=self._pacing)
            self._done[number] = Outcome(wanted, measured=measured)
        except NasdeployError as error:
            context.console.error(str(error))
            self._done[number] = Outcome(wanted, error=error)
        except BaseException as error:  # a fault of ours, or stopping: seen when all have ended
            self._bugs.append(error)
        finally:
            self._pacing.needs_no_more(context.device)
            self._ended[number].set()
