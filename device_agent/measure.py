"""The measuring protocol: interleaved rounds, judged by a sentinel, in a journal that survives.

docs/measuring.md says why it is like this.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from nasdeploy.device_agent.condition import read_condition
from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.job import Graph, Job, put_graphs, run_job
from nasdeploy.device_agent.listener import Listener
from nasdeploy.device_agent.lock import device_lock
from nasdeploy.device_agent.readiness import Ready, Setup, made_ready
from nasdeploy.device_agent.retry import Patience, persist
from nasdeploy.device_agent.rounds import round_order
from nasdeploy.device_agent.runners.runner import Runner
from nasdeploy.device_agent.session import Identity, Round, Session, SessionLog, finished_session
from nasdeploy.durable import Journal
from nasdeploy.errors import DeviceError, DeviceUnreachable, UsageError

OnProgress = Callable[[int, int, float | None, str], None]

_UNSTABLE_AFTER_ROUNDS = 40
_SPARE = 1.1  # a few rounds too many cost less than another start for a few too few


@dataclass(frozen=True, slots=True)
class MeasureConfig:
    """How to measure.

    Attributes:
        threads: The runtime's.
        warmups: Runs of each graph after loading it; they don't count.
        min_samples: Warm ones of each graph, at least.
        passes: How often each chain of graphs is gone through in a round. The first pass is cold,
            the others are warm and are what counts.
        chain: About how many operators are gone through before they come again; as many as a
            network has, so that each finds the caches as it would find them there.
        min_duration_s: Of all accepted rounds together, at least.
        min_starts: The rounds come from at least so many process starts.
        sentinel_visits: Chains of a round that the sentinel and the empty graph are in, at least.
        sentinel_tolerance: How far a round's sentinel may be off its usual time.
        max_rejected_share: Above it, after 40 rounds or more, the device is called unstable,
        settle_s: and when its rejected rounds have taken so long together: until then it may come
            to rest.
        usual_ms: What the sentinel took when the device was measured before, if that is known.
            While it takes longer by more than the tolerance, measuring goes on,
        wait_s: so long at most, for the device to be itself again.
        rounds_per_start: At most, unless the rounds are so short that starting takes longer.
        min_start_s: What such a start is filled up to.
        start_timeout_s: For one start; a device that hangs is found out by it.
        lock_timeout_s: How long to wait for another process that measures on the device.
        patience: How long to wait for a device that went away.
        setup: How the device is to be: which processors, how warm.
    """

    threads: int = 1
    warmups: int = 10
    min_samples: int = 50
    passes: int = 2
    chain: int = 20
    min_duration_s: float = 2.0
    min_starts: int = 1
    sentinel_visits: int = 3
    sentinel_tolerance: float = 0.15
    max_rejected_share: float = 0.9
    settle_s: float = 60.0
    usual_ms: float | None = None
    wait_s: float = 45.0
    rounds_per_start: int = 20
    min_start_s: float = 5.0
    start_timeout_s: float = 900.0
    lock_timeout_s: float = 3600.0
    patience: Patience = field(default_factory=Patience)
    setup: Setup = field(default_factory=Setup)

    def __post_init__(self) -> None:
        positive = (
            "threads", "min_samples", "chain", "min_starts", "sentinel_visits",
            "rounds_per_start", "sentinel_tolerance", "start_timeout_s",
        )  # fmt: skip
        for name in positive:
            if getattr(self, name) <= 0:
                raise UsageError(f"{name} must be more than 0, got {getattr(self, name)}.")
        if self.passes < 2:
            raise UsageError(f"passes must be at least 2, the first is cold; got {self.passes}.")
        for name in ("warmups", "min_duration_s", "settle_s", "wait_s"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must be at least 0, got {getattr(self, name)}.")


def measure(
    device: Device,
    runner: Runner,
    graphs: Sequence[Graph],
    *,
    sentinel: Graph,
    empty: Graph,
    config: MeasureConfig,
    journal: Journal,
    seed: int,
    name: str = "profile",
    alone: Collection[str] = (),
    on_progress: OnProgress | None = None,
) -> Session:
    """Measure `graphs` until there are enough rounds in which the device was itself.

    A round is on the disk as soon as it is complete. Called again with the same journal, whatever
    ended the call before, it goes on behind the last complete round; a session that is complete is
    returned as it is.

    Args:
        sentinel: One fixed operator of about 0.1 to 1 ms, by which rounds are judged.
        empty: A graph that does nothing, whose time is what a call costs.
        name: Of the session in the journal, which may hold several.
        alone: Ids of the whole networks among `graphs`: each is measured by itself.
        on_progress: Called after each round with accepted rounds, rounds needed, the seconds left
            (None while unknown) and a text for the user.
    Raises:
        UsageError: The journal holds another session by this name, or nothing is asked for.
        DeviceError: Too many rounds were rejected, or another process holds the device; the
            accepted rounds are kept.
        DeviceUnreachable: The device went away and did not come back; what was complete is kept.
        CommandFailed: The runner broke down, or the sentinel or the empty graph does not run. Of
            other graphs that don't, `Session.failures` knows.
    """
    everything = (sentinel, empty, *graphs)
    identity = _identity(device, runner, everything, alone, config, seed)
    log = SessionLog(journal, name, identity)
    report = on_progress or (lambda done, total, eta_s, text: None)
    measuring = _Measuring(device, runner, everything, identity, config, log, report)
    if measuring.rounds_needed() > 0:
        with device_lock(device, timeout_s=config.lock_timeout_s, on_wait=measuring.say):
            measuring.whatever_happens(identity)
    return finished_session(log, identity, config.sentinel_tolerance)


def _identity(
    device: Device,
    runner: Runner,
    everything: Sequence[Graph],
    alone: Collection[str],
    config: MeasureConfig,
    seed: int,
) -> Identity:
    if len(everything) == 2:
        raise UsageError("There is nothing to measure: no graphs were given.")
    ids = [graph.id for graph in everything]
    twice = sorted({name for name in ids if ids.count(name) > 1})
    if twice:
        raise UsageError(f"Two graphs are called {twice[0]!r}; each needs a name of its own.")
    for graph in everything:
        if graph.path.suffix != runner.suffix:
            raise UsageError(f"{runner.runtime} runs {runner.suffix} files, and not {graph.path}.")
    return Identity(
        device=device.name,
        fingerprint=device.info().fingerprint,
        runtime=runner.runtime,
        runner=runner.kind(device),
        threads=config.threads,
        warmups=config.warmups,
        passes=config.passes,
        chain=config.chain,
        sentinel_visits=config.sentinel_visits,
        seed=seed,
        cpus=config.setup.cpus,
        sentinel=everything[0].id,
        empty=everything[1].id,
        alone=sorted(alone),
        graphs={graph.id: graph.sha256 for graph in everything},
    )


class _Measuring:
    """A session being measured, start by start."""

    def __init__(
        self,
        device: Device,
        runner: Runner,
        everything: Sequence[Graph],
        identity: Identity,
        config: MeasureConfig,
        log: SessionLog,
        report: OnProgress,
    ) -> None:
        self._device = device
        self._runner = runner
        self._everything = everything
        self._config = config
        self._log = log
        self._report = report
        self._identity = identity

    def _accepted(self) -> list[Round]:
        return self._log.accepted(self._config.sentinel_tolerance)

    def rounds_needed(self) -> int:
        """Accepted rounds that are still missing, as far as can be said now."""
        config, accepted = self._config, self._accepted()
        for_samples = math.ceil(config.min_samples / (config.passes - 1)) - len(accepted)
        for_starts = config.min_starts - len({r.start for r in accepted})
        for_duration = 0
        short_s = config.min_duration_s - sum(r.duration_s for r in accepted)
        if accepted and short_s > 0:
            for_duration = math.ceil(_SPARE * short_s / self._round_s(accepted))
        for_state = 0
        if self._slower() and sum(r.duration_s for r in self._log.rounds) < config.wait_s:
            for_state = math.ceil(config.min_start_s / self._round_s(self._log.rounds))
        return max(for_samples, for_starts, for_duration, for_state, 0)

    def _slower(self) -> str | None:
        """In words, where the device was never as quick in this session as it was before."""
        usual_ms, tolerance = self._config.usual_ms, self._config.sentinel_tolerance
        if usual_ms is None:
            return None
        now_ms = self._log.verdict(tolerance).reference_ms
        if now_ms is None or now_ms <= (1 + tolerance) * usual_ms:
            return None
        return (
            f"waiting for the device to be itself: the sentinel took {usual_ms:.4f} ms and takes "
            f"{now_ms:.4f} ms now"
        )

    def total(self) -> int:
        return len(self._accepted()) + self.rounds_needed()

    def say(self, text: str) -> None:
        """Progress that is none: what is waited for."""
        accepted = len(self._accepted())
        self._report(accepted, accepted + self.rounds_needed(), None, text)

    def _round_s(self, rounds: Sequence[Round]) -> float:
        return max(sum(r.duration_s for r in rounds) / len(rounds), 1e-6)

    def whatever_happens(self, identity: Identity) -> None:
        """To the end, waiting for a device that goes away and going on behind the last round."""
        log, device = self._log, self._device

        def go_on() -> None:
            with made_ready(device, self._config.setup, self.say) as ready:
                log.begin(identity, read_condition(device))
                self._runner.prepare(device)
                self._to_the_end(ready)
                log.end(read_condition(device))

        try:
            persist(
                go_on,
                patience=self._config.patience,
                progress=lambda: len(log.rounds),
                on_wait=self.say,
            )
        except DeviceUnreachable as error:
            raise DeviceUnreachable(
                f"{error} The {len(self._accepted())} accepted rounds are kept in {log.path}: when "
                f"{device.name} answers again, run the same command with --resume."
            ) from error

    def _to_the_end(self, ready: Ready) -> None:
        models = put_graphs(self._device, self._everything)
        before = len(self._log.rounds)
        while (needed := self.rounds_needed()) > 0:
            ready.cool()
            self._start(ready, models, self._rounds_of_next_start(needed))
            self._check_stability(before)

    def _rounds_of_next_start(self, needed: int) -> int:
        """Even parts: so many starts as are asked for, and none much longer than is allowed.

        Rounds that will be rejected, going by those so far, are asked for at once.
        """
        config, rounds, accepted = self._config, self._log.rounds, self._accepted()
        most = config.rounds_per_start
        if rounds:
            most = max(most, math.ceil(config.min_start_s / self._round_s(rounds)))
            needed = math.ceil(needed / max(0.1, len(accepted) / len(rounds)))
        missing_starts = config.min_starts - len({r.start for r in accepted})
        return math.ceil(needed / max(missing_starts, math.ceil(needed / most)))

    def _start(self, ready: Ready, models: Sequence[dict[str, str]], rounds: int) -> None:
        log, config = self._log, self._config
        alive = [model for model in models if model["id"] not in log.failures]
        sentinel, empty, *others = (model["id"] for model in alive)
        first = log.rounds[-1].number + 1 if log.rounds else 0
        orders = [
            round_order(
                others,
                alone=self._identity.alone,
                sentinel=sentinel,
                empty=empty,
                visits=config.sentinel_visits,
                chain=config.chain,
                passes=config.passes,
                seed=self._identity.seed,
                number=number,
            )
            for number in range(first, first + rounds)
        ]
        job = Job(
            threads=config.threads,
            warmups=config.warmups,
            rounds=orders,
            first_round=first,
        )
        listener = Listener(
            [model["id"] for model in alive], job, log, config.passes, self._on_round
        )
        run_job(
            self._device,
            ready.runner(self._runner),
            alive,
            job,
            timeout_s=config.start_timeout_s,
            on_event=listener,
            where=listener.where,
        )

    def _on_round(self, round_: Round) -> None:
        tolerance = self._config.sentinel_tolerance
        self._log.add(round_, tolerance)
        reason = self._log.verdict(tolerance).reasons[-1]
        accepted, needed = self._accepted(), self.rounds_needed()
        share = len(accepted) / len(self._log.rounds)
        eta_s = needed * self._round_s(self._log.rounds) / share if share else None
        again = f"round {round_.number} is measured again: {reason}" if reason else None
        text = again or self._slower() or "measuring"
        self._report(len(accepted), len(accepted) + needed, eta_s, text)

    def _check_stability(self, before: int) -> None:
        config, log = self._config, self._log
        reasons = log.verdict(config.sentinel_tolerance).reasons[before:]
        rejected = [number for number, reason in enumerate(reasons) if reason]
        if len(reasons) < _UNSTABLE_AFTER_ROUNDS:
            return
        if sum(log.rounds[before + number].duration_s for number in rejected) < config.settle_s:
            return
        if len(rejected) > config.max_rejected_share * len(reasons):
            raise DeviceError(
                f"{self._device.name} does not run steadily: {len(rejected)} of {len(reasons)} "
                f"rounds were rejected, the last since {reasons[rejected[-1]]}. The "
                f"{len(self._accepted())} accepted rounds are kept. Close what else runs on it or "
                "let it cool, then run the same command with --resume."
            )
