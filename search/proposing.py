"""One adapter: any sampler that proposes and any evaluator that scores are a strategy."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor

from nasdeploy.latency_tables.optimum import best_within, check_limits
from nasdeploy.search.goal import Goal
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.strategies.proposer import SamplerSettings
from nasdeploy.search.strategy import Evaluator, Request, Sampler, Trial


@runtime_checkable
class Prepared(Protocol):
    """An evaluator that has work to do before it can score, such as a supernet to train."""

    @property
    def steps_left(self) -> int: ...

    def prepare(self) -> str:
        """One step of it; a few words about it."""
        ...


@runtime_checkable
class Stateful(Protocol):
    """An evaluator whose scores depend on what it did before."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Proposing:
    """A `Strategy`; a step is one of the evaluator's preparation, later a batch of trials.

    Args:
        sampler: Proposes architectures within the bounds that it did not propose before.
        evaluator: May answer in any order; the sampler is told in the order of asking.
        seed: Handed to the evaluator with each trial's number.
    Raises: `NothingWithinBounds` if no architecture holds the bounds.
    """

    def __init__(
        self,
        space: SearchSpace,
        sampler: Sampler,
        evaluator: Evaluator,
        *,
        bounds: Bounds,
        goal: Goal,
        seed: int,
        settings: SamplerSettings,
    ) -> None:
        check_limits(bounds.limits())
        self.space = space
        self.sampler = sampler
        self.evaluator = evaluator
        self.bounds = bounds
        self.goal = goal
        self.seed = seed
        self.settings = settings
        self._scored: dict[Arch, float] = {}
        self._trials = 0
        self._exhausted = False
        self._progress = "not started"

    @property
    def finished(self) -> bool:
        return self._exhausted or self._trials >= self.settings.trials

    @property
    def total_steps(self) -> int:
        before = self.evaluator.steps_left if isinstance(self.evaluator, Prepared) else 0
        return before + math.ceil(self.settings.trials / self.settings.trials_per_step)

    @property
    def progress(self) -> str:
        return self._progress

    def step(self) -> list[Trial]:
        """A step of preparation without a trial, or a batch of trials."""
        if self.finished:
            return []
        if isinstance(self.evaluator, Prepared) and self.evaluator.steps_left:
            self._progress = self.evaluator.prepare()
            return []
        wanted = min(self.settings.trials_per_step, self.settings.trials - self._trials)
        archs = self.sampler.ask(wanted)
        self._exhausted = len(archs) < wanted
        trials = self._evaluate(archs)
        self.sampler.tell(trials)
        self._trials += len(trials)
        best = max(self._scored.values(), default=math.nan)
        best = -best if self.goal.form == "loss" else best
        what = {"metric": self.goal.metric, "pareto": self.goal.metric, "loss": "loss"}
        named = what.get(self.goal.form, "score")
        self._progress = f"trial {self._trials}/{self.settings.trials}: best {named} {best:.3f}"
        return trials

    def _evaluate(self, archs: Sequence[Arch]) -> list[Trial]:
        requests = [
            Request(number, arch, self.seed) for number, arch in enumerate(archs, self._trials)
        ]
        outcomes = dict(self.evaluator(requests))
        return [self._trial(request, outcomes.get(request.number)) for request in requests]

    def _trial(self, request: Request, outcome: Mapping[str, float] | str | None) -> Trial:
        if outcome is None:
            return Trial(request.number, request.arch, failure="the evaluator gave no answer")
        if isinstance(outcome, str):
            return Trial(request.number, request.arch, failure=outcome)
        metrics = {**self._known(request.arch), **outcome}
        if not self.goal.usable(metrics) or not all(map(math.isfinite, metrics.values())):
            failure = f"a metric is missing or not finite: {dict(outcome)}"
            return Trial(request.number, request.arch, failure=failure)
        self._scored[request.arch] = self.goal.score(metrics)
        return Trial(request.number, request.arch, metrics)

    def _known(self, arch: Arch) -> dict[str, float]:
        """What is known without an evaluation: the current estimate, what is bounded, the costs."""
        costs = dict(zip(self.goal.costs, self.goal.costs_of([arch])[0].tolist(), strict=True))
        return {**self.bounds.known(arch), **costs}

    def candidates(self, n: int, *, exclude: frozenset[Arch] = frozenset()) -> list[Arch]:
        """The best scored within every bound on the current estimates.

        Where fewer than `n` of the scored ones hold the bounds, the rest has the highest sum of its
        choices' mean scores, found exactly.
        """
        scored = [arch for arch in self._scored if arch not in exclude]
        if scored:
            admitted = self.bounds.admits(scored)
            scored = [arch for arch, held in zip(scored, admitted, strict=True) if held]
        # the sort is stable: of equals, the one that was tried first
        best = sorted(scored, key=lambda arch: -self._scored[arch])[:n]
        if len(best) < n:
            known = exclude.union(best)
            scores = mean_scores(self.space, self._scored.items())
            best += best_within(scores, self.bounds.limits(), n=n - len(best), exclude=known)
        return best

    def supernet_weights(self) -> dict[str, Tensor] | None:
        """The trained supernet of the evaluator, for another search; None if it has none."""
        weights = getattr(self.evaluator, "supernet_weights", None)
        return None if weights is None else weights()

    def state_dict(self) -> dict[str, Any]:
        evaluator = self.evaluator
        return {
            "sampler": self.sampler.state_dict(),
            "evaluator": evaluator.state_dict() if isinstance(evaluator, Stateful) else {},
            "scored": [[list(arch), score] for arch, score in self._scored.items()],
            "trials": self._trials,
            "exhausted": self._exhausted,
            "progress": self._progress,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sampler.load_state_dict(state["sampler"])
        if isinstance(self.evaluator, Stateful):
            self.evaluator.load_state_dict(state["evaluator"])
        self._scored = {tuple(arch): score for arch, score in state["scored"]}
        self._trials = state["trials"]
        self._exhausted = state["exhausted"]
        self._progress = state["progress"]


def mean_scores(space: SearchSpace, scored: Iterable[tuple[Arch, float]]) -> list[np.ndarray]:
    """For each decision, (choices,) the mean score of what took it, drawn to the overall mean."""
    scored = list(scored)
    overall = float(np.mean([score for _, score in scored])) if scored else 0.0
    means = []
    for index, decision in enumerate(space.decisions):
        of_choice: list[list[float]] = [[overall] for _ in decision.choices]
        for arch, score in scored:
            of_choice[arch[index]].append(score)
        means.append(np.array([float(np.mean(scores)) for scores in of_choice]))
    return means
