"""A runner's lines, put together to rounds as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from nasdeploy.device_agent.job import Job
from nasdeploy.device_agent.rounds import sentinel_reading_ms
from nasdeploy.device_agent.runners.events import Bye, Event, Hello, Loaded, ModelFailed, Sample
from nasdeploy.device_agent.session import Round, SessionLog
from nasdeploy.errors import CommandFailed


class Listener:
    """What one start says, for one session; a line out of its order is refused.

    Args:
        models: In the order in which they are loaded; the sentinel first, then the empty graph.
        passes: How often each chain of a round is gone through.
        on_round: Called with each round as soon as it is complete.
    """

    def __init__(
        self,
        models: Sequence[str],
        job: Job,
        log: SessionLog,
        passes: int,
        on_round: Callable[[Round], None],
    ) -> None:
        self._models = models
        self._job = job
        self._log = log
        self._passes = passes
        self._on_round = on_round
        self._load_ms: dict[str, float] = {}
        self._warmup_ms = 0.0
        self._expected = self._visits()
        self._next = next(self._expected, None)
        self._samples: dict[str, list[Sample]] = {}
        self._round_began = time.monotonic()

    def _visits(self) -> Iterator[tuple[int, str]]:
        for number, order in enumerate(self._job.rounds, start=self._job.first_round):
            for model in order:
                if model not in self._log.failures:
                    yield number, model

    def __call__(self, event: Event) -> None:
        match event:
            case Hello():
                self._log.start(event)
            case Loaded():
                self._load_ms[event.model] = event.load_ms
                self._warmup_ms += event.warmup_ms
                self._round_began = time.monotonic()
            case ModelFailed():
                self._on_failure(event)
            case Sample():
                self._on_sample(event)
            case Bye():
                self._log.stop(event.peak_rss_bytes, self._load_ms, self._warmup_ms)
            case _:
                raise CommandFailed(f"The runner sent {event}, which nobody asked for.")

    def where(self) -> str:
        if not self._log.starts:
            return "while starting"
        for model in self._models:
            if model not in self._load_ms and model not in self._log.failures:
                return f"while loading {model}"
        if not self._next:
            return "at its end"
        # samples come a little late, so that it may have been further
        return f"in round {self._next[0]}, at {self._next[1]} or soon after it"

    def _on_failure(self, event: ModelFailed) -> None:
        if event.model in self._models[:2]:
            raise CommandFailed(
                f"{event.model} does not run, and nothing can be measured without it: "
                f"{event.message}"
            )
        if event.model not in self._models:
            raise CommandFailed(f"The runner speaks of {event.model!r}, which it was not given.")
        self._log.fail(event.model, event.message)
        self._samples.pop(event.model, None)
        if self._next and self._next[1] == event.model:
            self._advance()

    def _on_sample(self, sample: Sample) -> None:
        if self._next != (sample.round, sample.model) or len(sample.wall_ns) != self._job.repeats:
            raise CommandFailed(
                f"The runner sent {len(sample.wall_ns)} samples of {sample.model} in round "
                f"{sample.round} where {self._job.repeats} of {self._next} were due."
            )
        self._samples.setdefault(sample.model, []).append(sample)
        self._advance()

    def _advance(self) -> None:
        assert self._next is not None
        number = self._next[0]
        self._next = next(self._expected, None)
        if self._next is None or self._next[0] != number:
            self._complete(number)

    def _complete(self, number: int) -> None:
        now = time.monotonic()
        runs_ns = [visit.wall_ns[0] for visit in self._samples[self._models[0]]]
        chains_ns = [runs_ns[i : i + self._passes] for i in range(0, len(runs_ns), self._passes)]
        round_ = Round(
            number=number,
            start=self._log.starts,
            duration_s=now - self._round_began,
            sentinel_ms=sentinel_reading_ms(chains_ns),
            samples={name: _joined(visits) for name, visits in self._samples.items()},
        )
        self._samples = {}
        self._round_began = now
        self._on_round(round_)


def _joined(visits: Sequence[Sample]) -> dict[str, list[int] | None]:
    """One list of times for all visits of a round."""
    threads = [visit.thread_ns for visit in visits]
    return {
        "wall_ns": [ns for visit in visits for ns in visit.wall_ns],
        "thread_ns": None if None in threads else [ns for times in threads for ns in times or ()],
    }
