"""REINFORCE: what drew an architecture learns from a number that has no gradient.

Williams (Machine Learning 8, 1992). The gradient of the mean reward is the mean of
``(reward - baseline) * grad log p(architecture)``, whatever the baseline is, as long as the
architecture does not move it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch
from nasdeploy.search.supernet import SinglePath, Supernet
from nasdeploy.search.task import Task


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

    An entropy acts twice: as a part of the reward, since it depends on what was drawn, and directly.

    Args:
        log_probs: (n,) of the architectures that were drawn.
        advantages: n rewards, each less the same baseline.
        entropies: (n,) nats, on the way to each.
    """
    gained = torch.tensor(advantages, dtype=log_probs.dtype)
    if entropies is None or not entropy_weight:
        return -(gained * log_probs).mean()
    gained = gained + entropy_weight * entropies.detach()
    return -(gained * log_probs + entropy_weight * entropies).mean()


class PathRewards:
    """What a path of a supernet is worth on a batch: the task's metric, and what latency takes off.

    Batch norm takes the batch's own statistics, as it does where the weights are trained: those of
    a supernet are of all its paths.

    Args:
        value: The metric and the latency relative to the bound (None without a bound) as one
            number, higher is better.
    """

    def __init__(
        self,
        supernet: Supernet,
        *,
        task: Task,
        bounds: Bounds,
        value: Callable[[float, float | None], float],
    ) -> None:
        self.supernet, self.task, self.bounds, self.value = supernet, task, bounds, value

    @torch.no_grad()
    def __call__(self, arch: Arch, x: Tensor, y: Tensor) -> float:
        self.supernet.train()
        with self.supernet.mixed_by(SinglePath(arch)):
            metric = self.task.metrics(self.supernet(x), y)[self.task.metric]
        return self.value(metric, self.relative_latency(arch))

    def relative_latency(self, arch: Arch) -> float | None:
        """The estimate as a share of the bound; None without one."""
        bound = self.bounds.latency_ms
        if bound is None:
            return None
        return self.bounds.estimator().calibrated.of(arch) / bound
