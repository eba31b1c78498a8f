"""Progressive search: grow by one block, rank all expansions with a surrogate, evaluate the best.

Liu et al., "Progressive Neural Architecture Search" (ECCV 2018, arXiv:1712.00559), algorithm 1: K
is ``beam``. The surrogate is an ensemble of small nets (section 3.3; `search/ensemble.py`), fitted
anew for each batch. A block is a group of decisions whose labels begin alike
(``block2.left.input``, ``stage3.width``); a decision of its own is a block of its own.

Where we differ: every network has all blocks, since only such are costed and built; blocks that
were not grown yet repeat the last one that was, as far as their choices and the bounds allow. Of
the first level too no more than K are evaluated, drawn at random. With trials left at the end the
last level goes on. The surrogate is also fitted on the earlier levels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nasdeploy.search.ensemble import Ensemble
from nasdeploy.search.goal import Goal
from nasdeploy.search.objective import Bounds
from nasdeploy.search.ranks import Quantiles
from nasdeploy.search.scalarise import Chebyshev
from nasdeploy.search.space import Arch, Decision, SearchSpace
from nasdeploy.search.strategies.proposer import Proposer, SamplerSettings, at_least_one
from nasdeploy.search.strategy import Trial

IntArray = npt.NDArray[np.integer]

_SIDES = ("left", "right")
_MOST_EXPANSIONS = 200_000  # looked at in a level; beyond it a random part of them


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgressiveSettings(SamplerSettings):
    """
    Attributes:
        beam: Architectures that are evaluated in a level, and grown in the next.
    """

    beam: int = 20

    def __post_init__(self) -> None:
        super(ProgressiveSettings, self).__post_init__()
        at_least_one(self, "beam")


def blocks_of(decisions: Sequence[Decision]) -> list[list[int]]:
    """The decisions of each block, in the order of the first of each."""
    groups: dict[str, list[int]] = {}
    for index, decision in enumerate(decisions):
        parts = [part for part in decision.label.split(".")[:-1] if part not in _SIDES]
        groups.setdefault(".".join(parts) or decision.label, []).append(index)
    return list(groups.values())


def expansions(decisions: Sequence[Decision], block: Sequence[int]) -> Iterator[Arch]:
    """All joint choices of a block; of two that only swap their left and their right, one.

    The first block of PNAS has 256 and 136 of them are distinct (section 3.2).
    """
    labels = [decisions[index].label for index in block]
    swapped = [_other_side(label) for label in labels]
    order = [labels.index(label) if label in labels else at for at, label in enumerate(swapped)]
    for choices in itertools.product(*(range(len(decisions[index].choices)) for index in block)):
        if choices <= tuple(choices[at] for at in order):
            yield choices


def _other_side(label: str) -> str:
    parts = label.split(".")
    other = dict(zip(_SIDES, reversed(_SIDES), strict=True))
    return ".".join(other.get(part, part) for part in parts)


class Progressive(Proposer):
    """A `Sampler`.

    Attributes:
        level: How many blocks are grown.
    """

    def __init__(
        self,
        space: SearchSpace,
        bounds: Bounds,
        goal: Goal,
        settings: ProgressiveSettings,
        seed: int,
    ) -> None:
        super().__init__(space, bounds, goal, settings, seed)
        self.beam = settings.beam
        self.blocks = blocks_of(space.decisions)
        self.level = 1
        self._grown: list[Arch] = []  # of the level before, best first
        self._level: list[Trial] = []
        self._asked = 0  # in this level
        self._judge = Chebyshev(goal, self.rng)

    def ask(self, n: int) -> list[Arch]:
        """Up to `n` new architectures within the bounds; fewer when there are no more.

        A level that ends within a batch ends the batch's share of it: the rest are of the next
        level only after it has been told.
        """
        if self._asked >= self.beam and self._level and self.level < len(self.blocks):
            self._grow()
        last = self.level == len(self.blocks)
        wanted = n if last else max(1, min(n, self.beam - self._asked))
        chosen = self._chosen(wanted)
        if len(chosen) < wanted and not last and (self._level or not chosen):
            self._asked = self.beam  # nothing more can be grown here
        self._asked += len(chosen)
        self.met.update(dict.fromkeys(chosen))
        return chosen + (super().ask(n - len(chosen)) if len(chosen) < n else [])

    def propose(self, pending: Sequence[Arch]) -> Arch | None:
        """Where a batch is larger than what a level has left: one drawn at random."""
        del pending
        return self.draw()

    def tell(self, trials: Sequence[Trial]) -> None:
        before = len(self.known)
        super().tell(trials)
        self._level += self.known[before:]

    def _grow(self) -> None:
        self._judge.draw()
        scores = self._judge.scores(self._level)
        order = np.argsort(-scores, kind="stable")[: self.beam]
        self._grown = [self._level[index].arch for index in order]
        self.level += 1
        self._level, self._asked = [], 0

    def _chosen(self, n: int) -> list[Arch]:
        archs = self._candidates()
        archs = archs[self.bounds.admits(archs)] if len(archs) else archs
        fresh = [arch for arch in map(tuple, archs.tolist()) if arch not in self.met]
        if not fresh:
            return []
        if self.level == 1 or len(self.known) < 2:
            return self.rng.sample(fresh, min(n, len(fresh)))
        values = np.array([self.score(trial) for trial in self.known])
        if self.goal.several:
            values = self._judge.scores(self.known)
        ensemble = Ensemble(
            self.space.decisions,
            [trial.arch for trial in self.known],
            Quantiles(values).normal,
            seed=self.rng.getrandbits(32),
        )
        order = np.argsort(-ensemble.predict(fresh)[0], kind="stable")[:n]
        return [fresh[index] for index in order]

    def _candidates(self) -> IntArray:
        """(n, decisions) expansions of what was grown, completed to whole architectures."""
        block = self.blocks[self.level - 1]
        ways = np.array(
            list(itertools.islice(expansions(self.space.decisions, block), _MOST_EXPANSIONS))
        )
        parents = np.array(self._grown or [(0,) * len(self.space.decisions)])
        if len(parents) * len(ways) > _MOST_EXPANSIONS:
            kept = self.rng.sample(range(len(ways)), _MOST_EXPANSIONS // len(parents))
            ways = ways[kept]
        archs = np.repeat(parents, len(ways), axis=0)
        archs[:, block] = np.tile(ways, (len(parents), 1))
        for later in self.blocks[self.level :]:
            for place, index in enumerate(later):
                source = archs[:, block[min(place, len(block) - 1)]]
                archs[:, index] = np.minimum(source, len(self.space.decisions[index].choices) - 1)
        return np.unique(archs, axis=0)

    def state_dict(self) -> dict[str, Any]:
        state = {
            "level": self.level,
            "grown": [list(arch) for arch in self._grown],
            "in_level": [trial.to_json() for trial in self._level],
            "asked": self._asked,
            "weights": self._judge.weights.tolist(),
        }
        return {**super().state_dict(), **state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.level = state["level"]
        self._grown = [tuple(arch) for arch in state["grown"]]
        self._level = [Trial.of_json(entry) for entry in state["in_level"]]
        self._asked = state["asked"]
        self._judge.weights = np.array(state["weights"])
