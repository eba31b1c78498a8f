"""Signs that a relaxation has collapsed: skips everywhere, or a network unlike the mixture.

What DARTS descends can be lowered by passing images on instead of learning from them; left long
enough, skip connections win most edges (Zela et al., ICLR 2020, arXiv:1909.09656; Liang et al.,
"DARTS+", arXiv:1909.06035, stop when two of a cell's edges are skips). The accuracy that the
mixture has and the derived network loses is the other sign, and the entropy says whether there is
a decision yet at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nasdeploy.search.space import Arch
from nasdeploy.search.supernet import Choice, Supernet
from nasdeploy.search.topology import Node, nodes_of


@dataclass(frozen=True, slots=True)
class Signs:
    """
    Attributes:
        skip_share: Of the decisions that can skip and that the network depends on, those that do.
        entropy: Mean over decisions, in shares of an even choice: 1 is undecided, 0 decided.
        gap: Accuracy (or what counts) of the mixture less that of the derived network, both with
            the supernet's weights and on the same images.
    """

    skip_share: float
    entropy: float
    gap: float

    def complaints(self, *, max_skip_share: float, max_gap: float) -> list[str]:
        """What is beyond its limit, in words."""
        found = []
        if self.skip_share > max_skip_share:
            found.append(f"{self.skip_share:.0%} of the edges that can skip do")
        if self.gap > max_gap:
            found.append(f"the derived network loses {self.gap:.2f} against the mixture")
        return found


class SkipCounter:
    """Counts the skips of an architecture: candidates that hand on their input as it is."""

    def __init__(self, supernet: Supernet) -> None:
        self._skips: dict[int, frozenset[int]] = {}
        for choice in supernet.modules():
            if isinstance(choice, Choice):
                skips = _identities(choice.candidates)
                if skips:
                    self._skips[choice.decision] = skips | self._skips.get(
                        choice.decision, frozenset()
                    )
        self._nodes: dict[int, tuple[Node, int]] = {
            decision: (node, index)
            for node in nodes_of(supernet)
            for index, decision in enumerate(node.edges)
            if decision is not None and node.edges.count(decision) == 1
        }

    def share(self, arch: Arch) -> float:
        """Of the edges that can skip and end somewhere, those that do; 0 where none can."""
        used = [decision for decision in self._skips if self._counts(decision, arch)]
        skipping = sum(arch[decision] in self._skips[decision] for decision in used)
        return skipping / max(len(used), 1)

    def _counts(self, decision: int, arch: Arch) -> bool:
        if decision not in self._nodes:
            return True
        node, index = self._nodes[decision]
        return node.join is None or index in node.options[arch[node.join]]


def _identities(candidates: Iterable[nn.Module]) -> frozenset[int]:
    return frozenset(i for i, c in enumerate(candidates) if isinstance(c, nn.Identity))


def relative_entropy(probabilities: Sequence[Tensor], possible: Sequence[int]) -> float:
    """Mean entropy of decisions, each as a share of that of an even choice.

    Args:
        probabilities: (choices,) for each decision.
        possible: How many choices of each may be taken; decisions with one are left out.
    """
    shares = []
    for p, count in zip(probabilities, possible, strict=True):
        if count > 1:
            entropy = torch.special.entr(p.double()).sum()
            shares.append(float(entropy) / math.log(count))
    return sum(shares) / max(len(shares), 1)
