"""What the samplers share: what they are after, what they met, and what they learnt of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from nasdeploy.search.admissible import draw_within, nearest_within
from nasdeploy.search.goal import Goal
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.strategy import Trial
from nasdeploy.search.supernet_training import require


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSettings:
    """
    Attributes:
        trials: Architectures to score.
        trials_per_step: Proposed together; the sampler learns of them together.
        tries: Draws before an admissible architecture is found exactly.
    """

    trials: int = 200
    trials_per_step: int = 10
    tries: int = 64

    def __post_init__(self) -> None:
        at_least_one(self, "trials", "trials_per_step", "tries")


def at_least_one(settings: object, *names: str) -> None:
    """`UsageError` for the first of these settings that is below 1."""
    values = {name: getattr(settings, name) for name in names}
    require("at least 1", values, lambda value: value >= 1)


class Proposer:
    """The part of a `Sampler` that does not depend on its method.

    Args:
        seed: The only source of randomness: one seed, one sequence of proposals.

    Attributes:
        met: Every architecture that was proposed, in order.
        known: Those whose evaluation succeeded, with their metrics, in the order of asking.
    """

    def __init__(
        self, space: SearchSpace, bounds: Bounds, goal: Goal, settings: SamplerSettings, seed: int
    ) -> None:
        self.space = space
        self.bounds = bounds
        self.goal = goal
        self.tries = settings.tries
        self.rng = Random(seed)
        # ordered, so that what is saved is the same for the same search
        self.met: dict[Arch, None] = {}
        self.known: list[Trial] = []

    def ask(self, n: int) -> list[Arch]:
        """Up to `n` new architectures within the bounds; fewer when there are no more."""
        archs: list[Arch] = []
        while len(archs) < n:
            arch = self.propose(archs)
            if arch is None:
                break
            self.met[arch] = None
            archs.append(arch)
        return archs

    def propose(self, pending: Sequence[Arch]) -> Arch | None:
        """One that was not met, given those of the same batch; None when there are no more."""
        raise NotImplementedError

    def tell(self, trials: Sequence[Trial]) -> None:
        """Learn; a trial that failed, or lacks an objective, teaches only that it was tried."""
        self.known += [
            trial for trial in trials if trial.failure is None and self.goal.usable(trial.metrics)
        ]

    def draw(self, parent: Arch | None = None) -> Arch | None:
        """A random one, or a mutation of `parent`, that was not met; None when there are no more.

        Where draws miss the bounds it is found exactly, as near to its parent as they allow.
        """

        def once() -> Arch:
            if parent is None:
                return self.space.sample(self.rng)
            return self.space.mutate(parent, self.rng)

        found = draw_within(once, self.bounds, tries=self.tries, exclude=self.met)
        return found or nearest_within(
            self.space, self.bounds, self.rng, exclude=self.met, towards=parent
        )

    def score(self, trial: Trial) -> float:
        return self.goal.score(trial.metrics)

    def state_dict(self) -> dict[str, Any]:
        return {
            "rng": self.rng.getstate(),
            "met": [list(arch) for arch in self.met],
            "known": [trial.to_json() for trial in self.known],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rng.setstate(state["rng"])
        self.met = dict.fromkeys(tuple(arch) for arch in state["met"])
        self.known = [Trial.of_json(entry) for entry in state["known"]]
