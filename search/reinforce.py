"""REINFORCE: what drew an architecture learns from a number that has no gradient.

Williams (Machine Learning 8, 1992). The gradient of the mean reward is the mean of
``(reward - baseline) * grad log p(architecture)``, whatever the baseline is, as long as the
architecture does not move it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from nasdeploy.search.joint import JointSettings
from nasdeploy.search.latency_term import LatencyTerm
from nasdeploy.search.space import Arch
from nasdeploy.search.supernet import SinglePath, Supernet
from nasdeploy.search.supernet_training import finite, require
from nasdeploy.search.task import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class ReinforceSettings(JointSettings):
    """
    Attributes:
        archs_per_update: Paths, each scored on the next batch, whose mean is one update.
        baseline_decay: Of the moving average of rewards; the 0.99 of the published codes of ENAS
            and ProxylessNAS is for thousands of updates.
    """

    archs_per_update: int = 5
    baseline_decay: float = 0.9

    def __post_init__(self) -> None:
        super(ReinforceSettings, self).__post_init__()
        counts = {"archs_per_update": self.archs_per_update}
        require("at least 1", counts, lambda value: value >= 1)
        shares = {"baseline_decay": self.baseline_decay}
        require("at least 0 and below 1", shares, lambda value: 0 <= value < 1)


class Drawn(NamedTuple):
    """
    Attributes:
        archs: (n, decisions).
        log_probs: (n,) of each, natural logarithm.
        entropies: (n,) nats: of all decisions on the way to it, each given those before; their
            mean over draws is the entropy of the policy.
    """

    archs: Tensor
    log_probs: Tensor
    entropies: Tensor


class MovingBaseline:
    """The exponential moving average of rewards.

    A batch is held against the average of those before it, so that the estimate stays unbiased;
    the published code of ENAS takes each reward into the average first. The first batch has none
    before it and is held against its own mean, which scales its gradient by (n - 1) / n.

    Attributes:
        value: None before the first batch.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.value: float | None = None

    def advantages(self, rewards: Sequence[float]) -> list[float]:
        """Each reward less the average so far; then the average takes them in."""
        mean = sum(rewards) / len(rewards)
        before = mean if self.value is None else self.value
        self.value = before
        for reward in rewards:
            self.value = self.decay * self.value + (1 - self.decay) * reward
        return [reward - before for reward in rewards]


def policy_loss(
    log_probs: Tensor,
    advantages: Sequence[float],
    entropies: Tensor | None = None,
    entropy_weight: float = 0.0,
) -> Tensor:
    """A scalar whose gradient, averaged over draws, is that of -(mean reward + weight * entropy).

    An entropy acts twice: as a part of the reward, since it depends on the draw, and directly.

    Args:
        log_probs: (n,) of the architectures that were drawn.
        advantages: n rewards, each less the same baseline.
        entropies: (n,) nats, on the way to each.
    """
    gained = torch.tensor(advantages, dtype=log_probs.dtype, device=log_probs.device)
    if entropies is None or not entropy_weight:
        return -(gained * log_probs).mean()
    gained = gained + entropy_weight * entropies.detach()
    return -(gained * log_probs + entropy_weight * entropies).mean()


class PathRewards:
    """What a path of a supernet is worth on a batch: the task's metric, and what latency takes off.

    Batch norm takes the batch's own statistics, as it does where the weights are trained: those of
    a supernet are of all its paths.
    """

    def __init__(self, supernet: Supernet, task: Task, latency: LatencyTerm) -> None:
        self.supernet, self.task, self.latency = supernet, task, latency

    @torch.no_grad()
    def __call__(self, arch: Arch, x: Tensor, y: Tensor) -> float:
        self.supernet.train()
        with self.supernet.mixed_by(SinglePath(arch)):
            metric = self.task.metrics(self.supernet(x), y)[self.task.metric]
        return self.latency.off_reward(metric, arch)


class PolicyGradient:
    """Draws a path for each batch, and updates the policy after every so many.

    Args:
        draw: One architecture by the policy.
        log_prob: What drawing some would have recorded, differentiable.
        rate: The setting that a diverged policy's user is told to lower.
    """

    def __init__(
        self,
        *,
        draw: Callable[[], Arch],
        log_prob: Callable[[Sequence[Arch]], Drawn],
        reward: PathRewards,
        optimizer: torch.optim.Optimizer,
        settings: ReinforceSettings,
        rate: str,
        entropy_weight: float = 0.0,
    ) -> None:
        self.draw, self.log_prob, self.reward = draw, log_prob, reward
        self.optimizer, self.settings, self.rate = optimizer, settings, rate
        self.entropy_weight = entropy_weight
        self.baseline = MovingBaseline(settings.baseline_decay)
        self._archs: list[Arch] = []
        self._rewards: list[float] = []
        self._seen: list[float] = []

    def step(self, x: Tensor, y: Tensor, *, epoch: int, number: int) -> None:
        """Score one path on a batch, which the weights must not have learnt from."""
        arch = self.draw()
        self._archs.append(arch)
        self._rewards.append(self.reward(arch, x, y))
        if len(self._archs) == self.settings.archs_per_update:
            self._update(epoch, number)

    def end_epoch(self, epoch: int) -> float:
        """Update on what is left; the mean reward of the epoch."""
        if self._archs:
            self._update(epoch, len(self._seen))
        seen, self._seen = self._seen, []
        return sum(seen) / max(len(seen), 1)

    def _update(self, epoch: int, number: int) -> None:
        drawn = self.log_prob(self._archs)
        advantages = self.baseline.advantages(self._rewards)
        loss = policy_loss(drawn.log_probs, advantages, drawn.entropies, self.entropy_weight)
        finite(loss, "policy", epoch, number, self.rate, self.settings)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._seen += self._rewards
        self._archs, self._rewards = [], []
