"""Independent draws within the bounds: the baseline that every strategy must beat.

Li and Talwalkar, "Random Search and Reproducibility for Neural Architecture Search" (UAI 2019,
arXiv:1902.07638), with shared weights as there where a supernet scores. Where few draws hold the
bounds, the rest is found exactly and is no longer an even draw.
"""

from __future__ import annotations

from collections.abc import Sequence

from nasdeploy.search.space import Arch
from nasdeploy.search.strategies.proposer import Proposer


class RandomSearch(Proposer):
    """A `Sampler` that learns nothing."""

    def propose(self, pending: Sequence[Arch]) -> Arch | None:
        del pending
        return self.draw()
