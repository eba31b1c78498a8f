"""What latency adds to the loss of a search that learns what to choose while it trains.

The expectation of a supernet's latency is differentiable through the table (ProxylessNAS, ICLR
2019, arXiv:1812.00332, section 3.3, equations 5 and 6). All terms are relative to the bound, so
that their weight means the same on every device; without a bound on latency there is no term.

    * ``"add"`` is weight * E[latency] / bound, as the published code's "add#linear". The paper
      tunes the weight until the result has the wanted latency, since it goes on pushing below the
      bound.
    * ``"excess"``, the default, is weight * max(0, E[latency] / bound - 1).
    * ``"multiply"`` is loss * (E[latency] / bound) ** weight: the idea of the code's "mul#log",
      but a logarithm of milliseconds changes its sign at 1 ms.

Where a reward is what is learned from, the same is taken off it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nasdeploy.search.expectation import expected_cost
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch

LATENCY_TERMS = ("add", "excess", "multiply")


class LatencyTerm:
    """The term of one of `LATENCY_TERMS`; the estimator is asked anew at every use."""

    def __init__(self, form: str, weight: float, bounds: Bounds) -> None:
        self.form, self.weight, self.bounds = form, weight, bounds

    def with_loss(self, loss: Tensor, probabilities: Sequence[Tensor]) -> Tensor:
        """The loss, and what the expected latency adds to it.

        Args:
            probabilities: (choices,) for each decision, summing to 1.
        """
        bound = self.bounds.latency_ms
        if bound is None:
            return loss
        estimated = self.bounds.estimator().calibrated
        relative = expected_cost(estimated, probabilities) / bound
        if self.form == "multiply":
            return loss * relative**self.weight
        if self.form == "excess":
            relative = (relative - 1).clamp(min=0)
        return loss + self.weight * relative

    @torch.no_grad()
    def expected(self, probabilities: Sequence[Tensor]) -> dict[str, float]:
        """``expected_latency_ms``, for a trial; empty where there is no table."""
        if not self.bounds.has_estimator:
            return {}
        estimated = self.bounds.estimator().calibrated
        return {"expected_latency_ms": float(expected_cost(estimated, probabilities))}

    def off_reward(self, reward: float, arch: Arch) -> float:
        """A reward (higher is better), less what the estimate of an architecture takes off it."""
        bound = self.bounds.latency_ms
        if bound is None:
            return reward
        relative = self.bounds.estimator().calibrated.of(arch) / bound
        if self.form == "multiply":
            return reward * float(relative**-self.weight)
        if self.form == "excess":
            relative = max(relative - 1, 0.0)
        return reward - self.weight * relative
