"""Does a supernet rank networks as training them alone does? Asked of a few when a search ends.

A search that learns from shared weights is worth what these say of networks on their own. That
differs from space to space, down to scores that no longer reflect the networks' own accuracy (Yu et
al., "Evaluating the Search Phase of Neural Architecture Search", ICLR 2020, arXiv:1902.08142). So
some architectures within the bounds are drawn, scored with the supernet, and trained from their
first weights for a few epochs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from nasdeploy.search.admissible import draw_within, nearest_within
from nasdeploy.search.data import SearchData
from nasdeploy.search.evaluators.training import trained_alone
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.strategy import Evaluator, Request, Trial
from nasdeploy.search.task import Task
from nasdeploy.seeds import derived_seed

_TRIES = 64


@dataclass(frozen=True, slots=True)
class Agreement:
    """
    Attributes:
        shared: What counts of each architecture, with the supernet's weights.
        alone: The same after a short training of its own, in the same order.
    """

    shared: tuple[float, ...]
    alone: tuple[float, ...]

    @property
    def spearman(self) -> float:
        """Not a number where all values of one side are equal."""
        from scipy.stats import spearmanr

        return float(spearmanr(self.shared, self.alone).statistic) if self._differ else math.nan

    @property
    def kendall(self) -> float:
        """Kendall's tau-b; not a number where all values of one side are equal."""
        from scipy.stats import kendalltau

        return float(kendalltau(self.shared, self.alone).statistic) if self._differ else math.nan

    @property
    def _differ(self) -> bool:
        return len(set(self.shared)) > 1 and len(set(self.alone)) > 1


class SanityCheck:
    """Ranks so many architectures twice; nothing where that is 0.

    Args:
        shared: Scores with the supernet's weights.
        deployment: Shape and classes of the images in `data`.
    """

    def __init__(
        self,
        space: SearchSpace,
        shared: Evaluator,
        *,
        task: Task,
        deployment: Deployment,
        data: SearchData,
        bounds: Bounds,
        seed: int,
        archs: int,
        epochs: int,
    ) -> None:
        self.space, self.shared, self.task = space, shared, task
        self.deployment, self.data, self.bounds = deployment, data, bounds
        self.seed, self.archs, self.epochs = seed, archs, epochs

    def at_the_end(self, trials: list[Trial]) -> tuple[list[Trial], str]:
        """The trials of the last step, the last of them with what was found; and that in words."""
        if not self.archs or not trials:
            return trials, ""
        found = self.agreement()
        metrics = {
            "sanity_archs": float(len(found.alone)),
            "sanity_spearman": found.spearman,
            "sanity_kendall": found.kendall,
        }
        known = {name: value for name, value in metrics.items() if not math.isnan(value)}
        last = replace(trials[-1], metrics={**trials[-1].metrics, **known})
        ranked = (
            f"Spearman {found.spearman:.2f}, Kendall {found.kendall:.2f}"
            if "sanity_spearman" in known
            else "all alike, so that there are no ranks to compare"
        )
        text = f"; supernet against {len(found.alone)} trained alone: {ranked}"
        return [*trials[:-1], last], text

    def agreement(self) -> Agreement:
        """Of those that fail on either side nothing is known; they are left out."""
        requests = [
            Request(number, arch, derived_seed(self.seed, "sanity", number))
            for number, arch in enumerate(self._drawn())
        ]
        metric = self.task.metric
        shared = dict(self.shared(requests))
        both = []
        for request in requests:
            score = shared[request.number]
            alone = trained_alone(
                self.space,
                request.arch,
                task=self.task,
                deployment=self.deployment,
                data=self.data,
                epochs=self.epochs,
                seed=request.seed,
            )
            if not isinstance(score, str) and not isinstance(alone, str):
                both.append((score[metric], alone[metric]))
        return Agreement(tuple(s for s, _ in both), tuple(a for _, a in both))

    def _drawn(self) -> Sequence[Arch]:
        """Different architectures within the bounds; fewer where there are fewer."""
        rng = Random(derived_seed(self.seed, "sanity"))
        drawn: list[Arch] = []
        while len(drawn) < self.archs:
            arch = draw_within(
                lambda: self.space.sample(rng), self.bounds, tries=_TRIES, exclude=drawn
            ) or nearest_within(self.space, self.bounds, rng, exclude=drawn)
            if arch is None:
                break
            drawn.append(arch)
        return drawn
