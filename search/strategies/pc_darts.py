"""PC-DARTS: DARTS on a part of the channels, with weights for edges too.

Xu et al., "PC-DARTS: Partial Channel Connections for Memory-Efficient Architecture Search" (ICLR
2020, arXiv:1907.05737). The operators on an edge take one channel in K, the others pass by
(section 3.2, ``partial_channels``; `search.wired.PartialChoice`), which takes a K-th of the memory
and lets batches be larger. As drawn channels make the operators' weights waver, the edges into a
node have weights of their own, a softmax over betas (section 3.3, ``edge_normalisation``); what an
edge counts for in the end is the product of the two. At first only the weights are trained, lest
operators without weights of their own win early (section 4.2).

Where we differ from the paper and its code, beyond what `strategies/darts.py` says:
    * The channels that an operator takes are the first ones of a shuffled order, as in the
      published code (the paper speaks of random ones).
    * A trial's accuracy is that of the path in this supernet, where the other channels pass by. The
      stand-alone network has all channels and begins anew: no weights fit it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Unpack

from nasdeploy.search.joint import Given
from nasdeploy.search.space import SearchSpace
from nasdeploy.search.strategies.darts import Darts, DartsSettings
from nasdeploy.search.supernet_training import require


@dataclass(frozen=True, slots=True, kw_only=True)
class PcDartsSettings(DartsSettings):
    """
    Attributes:
        weight_lr: The paper's 0.1 is for batches of 256.
        warmup_epochs: 15 of 50 in the paper.
        arch_lr: The paper's 6e-4 is for 50 epochs.
        partial_channels: K. With 1, and without edge normalisation, this is DARTS.
        edge_normalisation: Whether edges have weights.
    """

    warmup_epochs: int = 3
    arch_lr: float = 6e-3
    partial_channels: int = 4
    edge_normalisation: bool = True

    def __post_init__(self) -> None:
        super(PcDartsSettings, self).__post_init__()
        channels = {"partial_channels": self.partial_channels}
        require("at least 1", channels, lambda value: value >= 1)


class PcDarts(Darts[PcDartsSettings]):
    """A `Strategy`; a step is an epoch."""

    def __init__(
        self, space: SearchSpace, *, settings: PcDartsSettings, **given: Unpack[Given]
    ) -> None:
        super().__init__(
            space,
            settings=settings,
            partial=settings.partial_channels,
            edge_weights=settings.edge_normalisation,
            **given,
        )
