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
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from nasdeploy.errors import UnknownName
from nasdeploy.search.expectation import expected_cost
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch
from nasdeploy.search.supernet_training import SupernetSettings, require

LATENCY_TERMS = ("add", "excess", "multiply")


@dataclass(frozen=True, slots=True, kw_only=True)
class JointSettings(SupernetSettings):
    """Of a search that learns what to choose while it trains a supernet.

    Attributes:
        warmup_epochs: Weights only; none with a trained supernet.
        search_epochs: Weights and choices take turns.
        latency_term: ``"excess"``, ``"add"`` or ``"multiply"``: see the top of this file. Without a
            bound on latency there is no term.
        latency_weight: See there.
        sanity_archs: So many architectures are also trained alone at the end of the search, to see
            whether the supernet ranks them alike (`search/sanity.py`); 0 for none.
        sanity_epochs: For how long each.
    """

    warmup_epochs: int = 4
    search_epochs: int = 8
    latency_term: Literal["add", "excess", "multiply"] = "excess"
    latency_weight: float = 2.0
    sanity_archs: int = 0
    sanity_epochs: int = 2

    def __post_init__(self) -> None:
        super(JointSettings, self).__post_init__()
        if self.latency_term not in LATENCY_TERMS:
            raise UnknownName("latency_term", self.latency_term, LATENCY_TERMS)
        weights = {"warmup_epochs": self.warmup_epochs, "latency_weight": self.latency_weight}
        require("at least 0", weights, lambda value: value >= 0)
        epochs = {"search_epochs": self.search_epochs, "sanity_epochs": self.sanity_epochs}
        require("at least 1", epochs, lambda value: value >= 1)
        archs = {"sanity_archs": self.sanity_archs}
        require("0, or at least 3 for a rank", archs, lambda value: value == 0 or value >= 3)


class LatencyTerm:
    """The term of a search with these settings; the estimator is asked anew at every use."""

    def __init__(self, settings: JointSettings, bounds: Bounds) -> None:
        self.settings, self.bounds = settings, bounds

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
        weight = self.settings.latency_weight
        if self.settings.latency_term == "multiply":
            return loss * relative**weight
        if self.settings.latency_term == "excess":
            relative = (relative - 1).clamp(min=0)
        return loss + weight * relative

    def off_reward(self, reward: float, arch: Arch) -> float:
        """A reward (higher is better), less what the estimate of an architecture takes off it."""
        bound = self.bounds.latency_ms
        if bound is None:
            return reward
        relative = self.bounds.estimator().calibrated.of(arch) / bound
        weight = self.settings.latency_weight
        if self.settings.latency_term == "multiply":
            return reward * float(relative**-weight)
        if self.settings.latency_term == "excess":
            relative = max(relative - 1, 0.0)
        return reward - weight * relative
