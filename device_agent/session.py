"""A measuring session: what the journal holds of it, and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nasdeploy.device_agent.condition import Condition
from nasdeploy.device_agent.rounds import Verdict, judge
from nasdeploy.device_agent.runners.events import Hello
from nasdeploy.device_agent.statistics import (
    Clock,
    Floats,
    Samples,
    Statistic,
    Statistics,
    Warmth,
    of_warmth,
    summarise,
)
from nasdeploy.durable import Journal
from nasdeploy.errors import CommandFailed, UsageError

Visits = Sequence[tuple[Sequence[int], Sequence[int] | None]]


@dataclass(frozen=True, slots=True)
class Identity:
    """What has to be equal for two pieces of measuring to be one session."""

    device: str
    fingerprint: str
    runtime: str
    runner: str
    threads: int
    warmups: int
    passes: int
    chain: int
    sentinel_visits: int
    seed: int
    sentinel: str
    empty: str
    alone: list[str]
    graphs: Mapping[str, str]
    cpus: str | None = None

    def first_difference(self, other: Mapping[str, Any]) -> str | None:
        """In words, how what a journal holds differs from this."""
        for name, mine in asdict(self).items():
            theirs = other.get(name)
            if name == "graphs" and isinstance(theirs, dict):
                for graph in sorted({*mine, *theirs}):
                    if graph not in theirs or graph not in mine:
                        return (
                            f"the graph {graph} is only {'asked for' if graph in mine else 'there'}"
                        )
                    if mine[graph] != theirs[graph]:
                        return f"the file of {graph} is another now"
            elif theirs != mine:
                return f"{name} was {theirs!r} and is {mine!r} now"
        return None


@dataclass(frozen=True, slots=True)
class Round:
    """A complete round as it stands in the journal."""

    number: int
    start: int
    duration_s: float
    sentinel_ms: float
    samples: Mapping[str, Mapping[str, Any]]


class SessionLog:
    """One session's entries in a journal. A journal may hold several, and entries of others.

    Everything that is known of a session is read back from its entries, so that after a kill it
    goes on as if there had been none; only the round that was running is lost.
    """

    def __init__(self, journal: Journal, name: str, identity: Identity) -> None:
        self.name = name
        self.path = journal.path
        self.rounds: list[Round] = []
        self.failures: dict[str, str] = {}
        self.version: str | None = None
        self.starts = 0
        self.peak_rss_bytes = 0
        self.load_ms: dict[str, float] = {}
        self.conditions: list[Mapping[str, Any]] = []
        self._journal = journal
        self._accepted: dict[int, bool] = {}
        for entry in journal.entries:
            if isinstance(entry, dict) and entry.get("session") == name:
                self._replay(entry, identity)

    def _replay(self, entry: dict[str, Any], identity: Identity) -> None:
        match entry.get("event"):
            case "session":
                difference = identity.first_difference(entry["identity"])
                if difference:
                    raise UsageError(
                        f"{self._journal.path} holds a measurement {self.name!r} of something "
                        f"else: {difference}. Measure into another file, or delete this one."
                    )
                self.conditions.append(entry["condition"])
                if not self.rounds:
                    self.failures.clear()  # nothing was measured without them: worth another try
            case "start":
                self.starts = entry["start"]
                self.version = entry["version"]
            case "round":
                self._accepted[entry["round"]] = entry["accepted"]
                self.rounds.append(
                    Round(
                        entry["round"],
                        entry["start"],
                        entry["duration_s"],
                        entry["sentinel_ms"],
                        entry["samples"],
                    )
                )
            case "verdict":
                self._accepted[entry["round"]] = entry["accepted"]
            case "failed":
                self.failures[entry["model"]] = entry["message"]
            case "stop":
                self.peak_rss_bytes = max(self.peak_rss_bytes, entry["peak_rss_bytes"])
                self.load_ms = entry["load_ms"]
            case "end":
                self.conditions.append(entry["condition"])

    def begin(self, identity: Identity, condition: Condition) -> None:
        self.conditions.append(condition.to_json())
        self._append("session", identity=asdict(identity), condition=condition.to_json())

    def start(self, hello: Hello) -> None:
        if self.version not in (None, hello.version):
            raise UsageError(
                f"{self._journal.path} was measured with {hello.runtime} {self.version}, and this "
                f"is {hello.version}. Install that version again, or delete the file."
            )
        self.version = hello.version
        self.starts += 1
        self._append("start", start=self.starts, version=hello.version, pid=hello.pid)

    def add(self, round_: Round, tolerance: float) -> None:
        """Write a round down with what is thought of it, and what it changes for the others."""
        self.rounds.append(round_)
        reasons = self.verdict(tolerance).reasons
        self._accepted[round_.number] = reasons[-1] is None
        self._append(
            "round",
            round=round_.number,
            start=round_.start,
            accepted=reasons[-1] is None,
            reason=reasons[-1],
            sentinel_ms=round_.sentinel_ms,
            duration_s=round_.duration_s,
            samples=dict(round_.samples),
        )
        for earlier, reason in zip(self.rounds, reasons, strict=True):
            if self._accepted[earlier.number] != (reason is None):
                self._accepted[earlier.number] = reason is None
                self._append(
                    "verdict", round=earlier.number, accepted=reason is None, reason=reason
                )

    def fail(self, model: str, message: str) -> None:
        self.failures[model] = message
        self._append("failed", model=model, message=message)

    def stop(self, peak_rss_bytes: int, load_ms: Mapping[str, float], warmup_ms: float) -> None:
        """The end of a start; `warmup_ms` is what the warm-ups of all its graphs took."""
        self.peak_rss_bytes = max(self.peak_rss_bytes, peak_rss_bytes)
        self.load_ms = dict(load_ms)
        self._append(
            "stop", peak_rss_bytes=peak_rss_bytes, load_ms=self.load_ms, warmup_ms=warmup_ms
        )

    def end(self, condition: Condition) -> None:
        self.conditions.append(condition.to_json())
        self._append("end", condition=condition.to_json())

    def verdict(self, tolerance: float) -> Verdict:
        return judge([r.sentinel_ms for r in self.rounds], tolerance)

    def accepted(self, tolerance: float) -> list[Round]:
        reasons = self.verdict(tolerance).reasons
        return [r for r, reason in zip(self.rounds, reasons, strict=True) if reason is None]

    def _append(self, event: str, **fields: Any) -> None:
        self._journal.append({"event": event, "session": self.name, **fields})


@dataclass(frozen=True, slots=True)
class Session:
    """A finished session.

    Attributes:
        samples: By graph, the sentinel and the empty graph among them.
        failures: Graphs that could not be loaded or run, with what the runtime said.
        reference_ms: What the sentinel takes undisturbed, by the wall clock.
        load_ms: By graph, in the last start.
        conditions: Of the device, before and after each piece of measuring.
    """

    name: str
    identity: Identity
    version: str
    samples: Mapping[str, Samples]
    failures: Mapping[str, str]
    accepted: int
    rejected: int
    starts: int
    reference_ms: float | None
    peak_rss_bytes: int
    load_ms: Mapping[str, float]
    conditions: Sequence[Mapping[str, Any]]

    def statistics(
        self,
        graph: str,
        statistic: Statistic = "median",
        *,
        clock: Clock = "wall",
        warmth: Warmth = "warm",
        subtract_empty: bool = True,
        by_start: bool = False,
    ) -> Statistics:
        """What a graph takes; its interval is one of `statistic`.

        Args:
            warmth: Warm is what a network takes that runs again and again, and what an operator
                takes in it; cold is the first pass of a chain.
            subtract_empty: For an operator, which inside a network is not called by itself; not
                for a network, whose call the user pays for too.
            by_start: Let the interval cover how process starts differ.
        Raises: `CommandFailed` for a graph that could not be run, with what the runtime said.
        """
        samples = self._samples(graph)
        empty = self.runs(self.identity.empty, clock, warmth) if subtract_empty else None
        return summarise(
            self.runs(graph, clock, warmth),
            minus_ms=empty,
            starts=samples.starts if by_start else None,
            statistic=statistic,
            seed=self.identity.seed,
        )

    def runs(self, graph: str, clock: Clock = "wall", warmth: Warmth = "warm") -> Floats:
        """(rounds, runs of each) in milliseconds, the call included."""
        return of_warmth(self._samples(graph).of(clock), warmth, passes=self.identity.passes)

    def raise_failures(self) -> None:
        """`CommandFailed` naming the first graph that could not be run, if there is one."""
        for graph in self.failures:
            self._samples(graph)

    def _samples(self, graph: str) -> Samples:
        if graph in self.failures:
            others = len(self.failures) - 1
            more = f" ({others} more failed)" if others else ""
            raise CommandFailed(
                f"{graph} does not run with {self.identity.runtime} {self.version} on "
                f"{self.identity.device}: {self.failures[graph]}{more}"
            )
        if graph not in self.samples:
            raise UsageError(f"{graph} was not measured in {self.name!r}.")
        return self.samples[graph]

    def to_json(self) -> dict[str, Any]:
        """What stands beside a table's rows: plain data, without samples and graphs."""
        identity = {k: v for k, v in asdict(self.identity).items() if k != "graphs"}
        return {
            **identity,
            "version": self.version,
            "accepted": self.accepted,
            "rejected": self.rejected,
            "starts": self.starts,
            "reference_ms": self.reference_ms,
            "peak_rss_bytes": self.peak_rss_bytes,
            "conditions": [dict(condition) for condition in self.conditions],
        }


def finished_session(log: SessionLog, identity: Identity, tolerance: float) -> Session:
    rounds = log.accepted(tolerance)
    starts = np.array([r.start for r in rounds], dtype=np.int64)
    samples = {}
    for graph in identity.graphs:
        if graph in log.failures:
            continue
        wall = np.array([r.samples[graph]["wall_ns"] for r in rounds], dtype=float) / 1e6
        thread = [r.samples[graph]["thread_ns"] for r in rounds]
        thread_ms = None if None in thread else np.array(thread, dtype=float) / 1e6
        samples[graph] = Samples(wall, thread_ms, starts)
    assert log.version is not None
    return Session(
        name=log.name,
        identity=identity,
        version=log.version,
        samples=samples,
        failures=log.failures,
        accepted=len(rounds),
        rejected=len(log.rounds) - len(rounds),
        starts=len(set(starts.tolist())),
        reference_ms=log.verdict(tolerance).reference_ms,
        peak_rss_bytes=log.peak_rss_bytes,
        load_ms=log.load_ms,
        conditions=log.conditions,
    )
