"""Drives a strategy: step, record, checkpoint, report, until the budget is spent.

The history is a journal that holds one line for each trial; the checkpoint says how many of them
belong to it. A run that was killed goes back to its checkpoint, cuts what the history has beyond
it, and goes on: the same trials as if nothing had happened, where the budget counts steps or
trials.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasdeploy import durable
from nasdeploy.errors import BadInput, UsageError
from nasdeploy.search import checkpoint as checkpoints
from nasdeploy.search.strategy import Strategy, Trial


@dataclass(frozen=True, slots=True)
class Budget:
    """What a search may spend; it ends with the first that is spent, at the end of a step.

    Attributes:
        wall_s: Seconds, those before an interruption included.
    Raises: `UsageError` if nothing is limited, or a limit is not above zero.
    """

    steps: int | None = None
    trials: int | None = None
    wall_s: float | None = None

    def __post_init__(self) -> None:
        limits = {"steps": self.steps, "trials": self.trials, "wall_s": self.wall_s}
        if all(limit is None for limit in limits.values()):
            raise UsageError(f"A budget limits at least one of {', '.join(limits)}.")
        for name, limit in limits.items():
            if limit is not None and not limit > 0:
                raise UsageError(f"A budget of {limit} {name}: it must be above 0.")

    def share_spent(self, steps: int, trials: int, elapsed_s: float) -> float:
        """0 to 1: of the limit that is nearest."""
        pairs = ((steps, self.steps), (trials, self.trials), (elapsed_s, self.wall_s))
        return min(1.0, max(spent / limit for spent, limit in pairs if limit is not None))


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a search stands after a step.

    Attributes:
        steps, trials: Since the search began, interruptions or not.
        elapsed_s: Seconds spent in it.
        share: Of the budget, 0 to 1; 1 also when the strategy has nothing left to do.
        eta_s: Seconds left at the pace so far.
        text: What the strategy says about the step.
        new: The trials of the step.
    """

    steps: int
    trials: int
    elapsed_s: float
    share: float
    eta_s: float
    text: str
    new: tuple[Trial, ...] = ()


@dataclass(frozen=True, slots=True)
class LoopResult:
    """How a search ended.

    Attributes:
        history: Every trial of it, as the journal has them.
        exhausted: The strategy had nothing left to do before the budget was spent.
    """

    history: tuple[Trial, ...]
    steps: int
    elapsed_s: float
    exhausted: bool


def drive(
    strategy: Strategy,
    *,
    budget: Budget,
    history: Path,
    checkpoint: Path,
    identity: Mapping[str, Any],
    report: Callable[[Progress], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> LoopResult:
    """Step `strategy` until `budget` is spent or it is finished.

    Begins from `checkpoint` if it is there. A greater budget than last time goes on where that one
    ended. Ctrl-C, or an error out of the strategy, leaves history and checkpoint at the end of the
    last whole step.

    Args:
        history: A journal of trials, JSON lines.
        checkpoint: Of the strategy's state and the counters, replaced after every step.
        identity: Plain data that says which search this is (space, strategy, seed, data, table).
        clock: Seconds, from any origin.
    Raises: `UsageError` where the checkpoint belongs to another search, `BadInput` where the
        history is shorter than its checkpoint or either is damaged.
    """
    run = _Run(strategy, budget, history, checkpoint, identity, clock)
    while not run.over:
        try:
            run.step()
        except BaseException:
            run.cut_back()
            raise
        if report:
            report(run.progress)
    return LoopResult(
        tuple(Trial.of_json(entry) for entry in run.journal.entries),
        run.steps,
        run.elapsed_s,
        strategy.finished and budget.share_spent(run.steps, run.trials, run.elapsed_s) < 1,
    )


class _Run:
    """The counters of a search, and what is on the disk of it."""

    def __init__(
        self,
        strategy: Strategy,
        budget: Budget,
        history: Path,
        checkpoint: Path,
        identity: Mapping[str, Any],
        clock: Callable[[], float],
    ) -> None:
        self.strategy, self.budget, self.clock = strategy, budget, clock
        self.checkpoint, self.identity = checkpoint, identity
        self.steps, self.trials, self.elapsed_s = 0, 0, 0.0
        self.new: list[Trial] = []
        stored = checkpoints.load(checkpoint, identity=identity)
        self.journal = durable.Journal(history)
        if stored is not None:
            strategy.load_state_dict(stored["strategy"])
            self.steps, self.trials = stored["steps"], stored["trials"]
            self.elapsed_s = stored["elapsed_s"]
        if len(self.journal.entries) < self.trials:
            raise BadInput(
                f"{history} has {len(self.journal.entries)} trials and {checkpoint} speaks of "
                f"{self.trials}: one of them was changed. Remove both to search anew."
            )
        self.cut_back()

    @property
    def over(self) -> bool:
        return self.strategy.finished or self._share >= 1

    @property
    def _share(self) -> float:
        return self.budget.share_spent(self.steps, self.trials, self.elapsed_s)

    @property
    def progress(self) -> Progress:
        share = 1.0 if self.strategy.finished else self._share
        eta_s = self.elapsed_s / share - self.elapsed_s if share else 0.0
        return Progress(
            self.steps,
            self.trials,
            self.elapsed_s,
            share,
            eta_s,
            self.strategy.progress,
            tuple(self.new),
        )

    def step(self) -> None:
        began = self.clock()
        self.new = self.strategy.step()
        for trial in self.new:
            self.journal.append(trial.to_json())
        # from here on the trials stay: an interruption that comes while the checkpoint is written
        # cannot know whether it took effect, and a history that is ahead of it is cut on resuming
        self.steps, self.trials = self.steps + 1, len(self.journal.entries)
        self.elapsed_s += self.clock() - began
        content = {
            "strategy": self.strategy.state_dict(),
            "steps": self.steps,
            "trials": self.trials,
            "elapsed_s": self.elapsed_s,
        }
        checkpoints.save(self.checkpoint, content, identity=self.identity)

    def cut_back(self) -> None:
        if len(self.journal.entries) > self.trials:
            self.journal.cut(self.trials)


def read_history(path: Path) -> Sequence[Trial]:
    """The trials of a run folder; a torn last line is left out, as in every journal."""
    return [Trial.of_json(entry) for entry in durable.read_jsonl(path)]
