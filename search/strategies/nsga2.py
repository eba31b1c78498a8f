"""NSGA-II: selection by layer of the front, then by how lonely a point is in its layer.

Deb et al., "A Fast and Elitist Multiobjective Genetic Algorithm" (IEEE Transactions on Evolutionary
Computation 6, 2002), sections III.A to III.C. Its two parents are crossed decision by decision, and
each decision is drawn anew with a probability of ``mutations`` in the number of decisions.

Where we differ: children that were met before, or break a bound, are not evaluated but drawn again.
An interval or a point that is preferred comes before everything: who is nearer to it wins (Deb and
Sundar, "Reference Point Based Multi-Objective Optimization Using Evolutionary Algorithms", GECCO
2006, do so within a layer). A goal that is one number makes it a genetic algorithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nasdeploy.search.goal import Goal
from nasdeploy.search.hypervolume import crowding, front_layers
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.strategies.proposer import Proposer, SamplerSettings, at_least_one
from nasdeploy.search.strategy import Trial
from nasdeploy.search.supernet_training import require

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int16]


class Population:
    """The arrays of NSGA-II, of any size, without a space or an evaluation.

    Attributes:
        archs: (n, decisions), best first.
        costs: (n, objectives), to be lowered.
    """

    def __init__(
        self, choices: Sequence[int], size: int, rng: np.random.Generator, mutations: float
    ) -> None:
        self.choices = np.array(choices)
        self.size = size
        self.rng = rng
        self.mutations = mutations
        self.archs: IntArray = np.empty((0, len(choices)), np.int16)
        self.costs: FloatArray = np.empty((0, 0))

    def children(self, n: int) -> IntArray:
        """(n, decisions): two tournaments of two, uniform crossover, mutation."""
        members, decisions = len(self.archs), len(self.choices)
        # members are sorted, so that the lower index of a tournament is its winner
        parents = self.rng.integers(members, size=(2, 2, n)).min(axis=0)
        crossed = self.rng.random((n, decisions)) < 0.5
        archs = np.where(crossed, self.archs[parents[0]], self.archs[parents[1]])
        changed = self.rng.random((n, decisions)) < self.mutations / decisions
        # a step of 1 to choices - 1, so that a changed decision differs; of one choice it stays
        steps = 1 + (self.rng.random((n, decisions)) * (self.choices - 1)).astype(np.int16)
        mutated: IntArray = ((archs + changed * steps) % self.choices).astype(np.int16)
        return mutated

    def survive(
        self, archs: IntArray, costs: FloatArray, behind: FloatArray | None = None
    ) -> FloatArray | None:
        """Take in new members and keep the best `size`.

        Args:
            behind: (members + new,) what comes before the layers, lower is better.
        Returns: `behind` of those that stay.
        """
        archs = np.concatenate([self.archs, archs])
        costs = np.concatenate([self.costs.reshape(-1, costs.shape[1]), costs])
        # twins would crowd out what differs
        _, once = np.unique(
            np.ascontiguousarray(archs).view(f"V{archs[0].nbytes}"), return_index=True
        )
        archs, costs = archs[once], costs[once]
        behind = None if behind is None else behind[once]
        layers = front_layers(costs)
        keys = [-crowding(costs, layers), layers]
        order = np.lexsort(keys if behind is None else [*keys, behind])[: self.size]
        self.archs, self.costs = archs[order], costs[order]
        return None if behind is None else behind[order]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nsga2Settings(SamplerSettings):
    """
    Attributes:
        population_size: Members that breed; the first as many are drawn at random.
        mutations: Decisions that change in a child, on average.
    """

    population_size: int = 20
    mutations: float = 1.0

    def __post_init__(self) -> None:
        super(Nsga2Settings, self).__post_init__()
        at_least_one(self, "population_size")
        require("above 0", {"mutations": self.mutations}, lambda value: value > 0)


class Nsga2(Proposer):
    """A `Sampler`."""

    def __init__(
        self, space: SearchSpace, bounds: Bounds, goal: Goal, settings: Nsga2Settings, seed: int
    ) -> None:
        super().__init__(space, bounds, goal, settings, seed)
        choices = [len(decision.choices) for decision in space.decisions]
        self._draws = np.random.default_rng(seed)
        self._members = Population(
            choices, settings.population_size, self._draws, settings.mutations
        )
        self._behind: FloatArray = np.empty(0)

    def ask(self, n: int) -> list[Arch]:
        """Up to `n` new architectures within the bounds; fewer when there are no more."""
        archs: list[Arch] = []
        if len(self.met) >= self._members.size and len(self._members.archs):
            archs = self._bred(n)
        return archs + super().ask(n - len(archs))

    def _bred(self, n: int) -> list[Arch]:
        """Up to `n` children that are new and within the bounds."""
        archs: list[Arch] = []
        for _ in range(self.tries):
            children = self._members.children(2 * n)
            children = children[self.bounds.admits(children)]
            for child in map(tuple, children.tolist()):
                if child not in self.met:
                    self.met[child] = None
                    archs.append(child)
                    if len(archs) == n:
                        return archs
        return archs

    def propose(self, pending: Sequence[Arch]) -> Arch | None:
        del pending
        best = tuple(self._members.archs[0].tolist()) if len(self._members.archs) else None
        return self.draw() if len(self.met) < self._members.size else self.draw(best)

    def tell(self, trials: Sequence[Trial]) -> None:
        before = len(self.known)
        super().tell(trials)
        new = self.known[before:]
        if not new:
            return
        archs = np.array([trial.arch for trial in new], np.int16)
        behind = np.array([self.goal.preference.distance(trial.metrics) for trial in new])
        costs = np.array([self._costs(trial) for trial in new])
        kept = self._members.survive(archs, costs, np.concatenate([self._behind, behind]))
        self._behind = np.empty(0) if kept is None else kept

    def _costs(self, trial: Trial) -> tuple[float, ...]:
        if self.goal.several:
            return self.goal.vector(trial.metrics)
        return (-self.score(trial),)

    def state_dict(self) -> dict[str, Any]:
        members = {
            "archs": self._members.archs.tolist(),
            "costs": self._members.costs.tolist(),
            "behind": self._behind.tolist(),
            "draws": self._draws.bit_generator.state,
        }
        return {**super().state_dict(), **members}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._members.archs = np.array(state["archs"], np.int16).reshape(
            -1, len(self._members.choices)
        )
        self._members.costs = np.array(state["costs"], np.float64)
        self._behind = np.array(state["behind"], np.float64)
        self._draws.bit_generator.state = state["draws"]
