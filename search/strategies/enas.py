"""ENAS: a controller draws paths of a supernet; the weights and the controller take turns.

Pham et al., "Efficient Neural Architecture Search via Parameter Sharing" (ICML 2018,
arXiv:1802.03268). Each step of the weights trains one path that the controller drew (section 2.2,
equation 1, M = 1). Then the weights stand still, and the controller learns by REINFORCE with a
moving baseline, a weight on its entropy, and as reward the accuracy on a batch of images that the
weights never see: those of the half that chooses between architectures. In the end paths are drawn,
scored, and the best is what is found. The controller is in `search/controller.py`, with the
decisions of the paper's two spaces; any space will do.

Where we differ from the paper and its code:
    * The reward knows the latency: the term that the other searches add to their loss is taken off
      the accuracy. Without a bound on latency it is the accuracy.
    * What is returned was scored on the whole validation split with its own batch norm statistics
      (the paper takes the reward on one batch), and holds every bound on the current estimate.
    * The controller learns once an epoch of weights, from one pass over its half of the images;
      its rate is higher, for runs of few epochs. Warm-up draws paths evenly.
    * The weights are trained with one cosine over all epochs, without restarts. The macro space's
      penalty on the number of skips (its code's ``skip_weight``) is left out: a bound does that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Unpack

import numpy as np
import torch

from nasdeploy.latency_tables.optimum import best_within
from nasdeploy.search.controller import Controller
from nasdeploy.search.joint import Given, JointSearch, Phase
from nasdeploy.search.reinforce import PathRewards, PolicyGradient, ReinforceSettings
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.strategy import Request, Trial
from nasdeploy.search.supernet_training import require
from nasdeploy.seeds import derived_seed

_DRAWS = 256  # from which the policy's preferences are counted


@dataclass(frozen=True, slots=True, kw_only=True)
class EnasSettings(ReinforceSettings):
    """
    Attributes:
        warmup_epochs: Weights only, paths drawn evenly; none with a trained supernet.
        search_epochs: Of the weights on drawn paths, each followed by a pass of the controller.
        controller_lr: Of Adam on the controller. The paper's 0.00035 is for 310 epochs: in 120
            updates it learns nothing, not even to draw given choices.
        entropy_weight: On nats of the whole architecture's entropy, in units of the reward.
        hidden, temperature, tanh_constant: Of the controller.
        trials_per_epoch: Paths that are drawn within the bounds and scored after an epoch; a
            quarter of them are the best so far, scored again.
        final_trials: The same after the last one.
    """

    controller_lr: float = 0.02
    entropy_weight: float = 1e-4
    hidden: int = 100
    temperature: float = 5.0
    tanh_constant: float = 2.5
    trials_per_epoch: int = 4
    final_trials: int = 20

    def __post_init__(self) -> None:
        super(EnasSettings, self).__post_init__()
        positive = ("controller_lr", "temperature", "tanh_constant")
        require("above 0", self._of(positive), lambda value: value > 0)
        weights = {"entropy_weight": self.entropy_weight}
        require("at least 0", weights, lambda value: value >= 0)
        counts = ("hidden", "trials_per_epoch", "final_trials")
        require("at least 1", self._of(counts), lambda value: value >= 1)

    def _of(self, names: Sequence[str]) -> dict[str, float]:
        return {name: getattr(self, name) for name in names}


class Enas(JointSearch[EnasSettings]):
    """A `Strategy`; a step is an epoch of the weights, a pass of the controller, a few trials."""

    def __init__(
        self, space: SearchSpace, *, settings: EnasSettings, **given: Unpack[Given]
    ) -> None:
        super().__init__(space, settings, given)
        # small enough that it is quickest on the CPU, wherever the supernet is
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(self.seed, "controller"))
            self.controller = Controller(
                space.decisions,
                hidden=settings.hidden,
                temperature=settings.temperature,
                tanh_constant=settings.tanh_constant,
            )
        self._optimizer = torch.optim.Adam(self.controller.parameters(), lr=settings.controller_lr)
        self._policy = PolicyGradient(
            draw=lambda: self._draw(1)[0],
            log_prob=self.controller.log_prob,
            reward=PathRewards(self.supernet, self.task, self.latency),
            optimizer=self._optimizer,
            settings=settings,
            rate="controller_lr",
            entropy_weight=settings.entropy_weight,
        )
        self._rng = Random(self.seed)
        self._draws = torch.Generator().manual_seed(derived_seed(self.seed, "draws"))
        self._trials = 0
        self._scores: dict[Arch, tuple[int, float]] = {}  # the epoch of the score, the score
        self._reward: float | None = None  # mean of the last pass of the controller

    def _warm_up(self, epoch: int) -> Iterator[float]:
        for number, (x, y) in enumerate(self._trainer.batches("weights", epoch)):
            arch = self.space.sample(self._rng)
            yield self._trainer.step(arch, x, y, epoch=epoch, number=number)

    def _search(self, epoch: int) -> Iterator[float]:
        """The weights on paths that the controller draws, then a pass of the controller."""
        for number, (x, y) in enumerate(self._trainer.batches("weights", epoch)):
            yield self._trainer.step(self._draw(1)[0], x, y, epoch=epoch, number=number)
        for number, (x, y) in enumerate(self._trainer.batches("arch", epoch)):
            self._policy.step(x, y, epoch=epoch, number=number)
        self._reward = self._policy.end_epoch(epoch)

    def _scored(self, epoch: int, phase: Phase) -> tuple[list[Trial], str]:
        trials = self._score(self._to_score(), phase)
        best = max((score for of, score in self._scores.values() if of == epoch), default=math.nan)
        rewarded = "" if phase == "warmup" else f"reward {self._reward:.3f}, "
        return trials, f"{rewarded}best {self.task.metric} {best:.3f}"

    def _draw(self, n: int) -> list[Arch]:
        archs = self.controller.sample(n, self._draws).archs
        return [tuple(arch) for arch in archs.tolist()]

    def _to_score(self) -> list[Arch]:
        """The best so far, and new ones from the controller, all within the bounds."""
        wanted = self.settings.final_trials if self.finished else self.settings.trials_per_epoch
        archs = self._best(max(1, wanted // 4)) if self._scores else []
        drawn = [arch for arch in dict.fromkeys(self._draw(16 * wanted)) if arch not in archs]
        if drawn:
            admitted = self.bounds.admits(drawn)
            archs += [arch for arch, held in zip(drawn, admitted, strict=True) if held]
        archs = archs[:wanted]
        # where the controller draws too little within the bounds
        return archs + self._likely(wanted - len(archs), exclude=frozenset(archs))

    def _score(self, archs: Sequence[Arch], phase: str) -> list[Trial]:
        requests = [Request(self._trials + n, arch, self.seed) for n, arch in enumerate(archs)]
        self._trials += len(requests)
        return [
            self._trial(request, scored, phase)
            for request, (_, scored) in zip(requests, self._evaluator(requests), strict=True)
        ]

    def _trial(self, request: Request, scored: Mapping[str, float] | str, phase: str) -> Trial:
        if isinstance(scored, str):
            return Trial(request.number, request.arch, failure=scored, phase=phase)
        self._scores[request.arch] = (self._epoch - 1, scored[self.task.metric])
        with torch.no_grad():
            drawn = self.controller.log_prob([request.arch])
        metrics = {
            **scored,
            **self.bounds.known(request.arch),
            "log_probability": float(drawn.log_probs[0]),
            "entropy": float(drawn.entropies[0]) / len(self.space.decisions),
        }
        return Trial(request.number, request.arch, metrics, phase=phase)

    def candidates(self, n: int, *, exclude: frozenset[Arch] = frozenset()) -> list[Arch]:
        """The best scored within every bound, by the weights of the latest epoch first.

        Where fewer than `n` of those scored hold the bounds, the rest are what the controller
        prefers, decision by decision, found exactly.
        """
        best = self._best(n, exclude=exclude)
        return best + self._likely(n - len(best), exclude=exclude.union(best))

    def _best(self, n: int, *, exclude: frozenset[Arch] = frozenset()) -> list[Arch]:
        scored = [arch for arch in self._scores if arch not in exclude]
        if not scored:
            return []
        admitted = self.bounds.admits(scored)
        scored = [arch for arch, held in zip(scored, admitted, strict=True) if held]
        # scores of different weights do not compare; the sort is stable
        return sorted(scored, key=lambda arch: self._scores[arch], reverse=True)[:n]

    def _likely(self, n: int, *, exclude: frozenset[Arch]) -> list[Arch]:
        """Within the bounds, with the highest product of how often each choice is drawn."""
        if n <= 0:
            return []
        # draws of their own: asking for candidates does not change what comes next
        generator = torch.Generator().manual_seed(derived_seed(self.seed, "likely"))
        archs = self.controller.sample(_DRAWS, generator).archs.numpy()
        scores = [
            np.log1p(np.bincount(archs[:, index], minlength=len(decision.choices)))
            for index, decision in enumerate(self.space.decisions)
        ]
        return best_within(scores, self.bounds.limits(), n=n, exclude=exclude)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "controller": self.controller.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "baseline": self._policy.baseline.value,
            "rng": self._rng.getstate(),
            "draws": self._draws.get_state(),
            "trials": self._trials,
            "scored": [[list(arch), *score] for arch, score in self._scores.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.controller.load_state_dict(state["controller"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._policy.baseline.value = state["baseline"]
        self._rng.setstate(state["rng"])
        self._draws.set_state(state["draws"])
        self._trials = state["trials"]
        self._scores = {tuple(arch): (epoch, score) for arch, epoch, score in state["scored"]}
