"""The continuous relaxation of a space: every candidate at once, weighed by a softmax.

Liu, Simonyan, Yang, "DARTS" (ICLR 2019, arXiv:1806.09055), section 2.2, equation 2; and the edge
normalisation of PC-DARTS (Xu et al., ICLR 2020, arXiv:1907.05737), section 3.3, equation 3.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.latency_tables.elimination import Term
from nasdeploy.latency_tables.optimum import Limit, highest_within
from nasdeploy.search.cell_ops import Zeros
from nasdeploy.search.mixture import mixture, weighted_sum
from nasdeploy.search.space import Arch, Decision
from nasdeploy.search.supernet import Choice, Supernet
from nasdeploy.search.topology import Node, nodes_of, with_own_operators
from nasdeploy.search.wired import Network


class Relaxation:
    """A `Mixing` of all candidates.

    A decision has parameters alpha, whose softmax weighs its candidates. The decision which edges
    end in a node has none where each edge has an operator of its own: then all edges are summed,
    and what is strongest on them decides (`best`). Elsewhere its choices are weighed like others.

    Where such a decision exists, an edge that is ``none`` is its business: ``none`` takes its part
    of the softmax, as published, but is not meant to be chosen. In spaces without it (nasbench201)
    ``none`` is an operator like any other.

    Args:
        edge_weights: Weigh the edges into a node too, by the softmax of parameters beta (PC-DARTS).
        generator: Draws the first alphas and betas, normal with a deviation of 1e-3 as published.

    Attributes:
        alphas: (choices,) by decision, for those that have parameters.
        betas: (edges,) by node, for each of `nodes`; empty without `edge_weights`.
        nodes: Those whose edges have operators of their own.
    """

    def __init__(
        self,
        supernet: Supernet,
        decisions: Sequence[Decision],
        *,
        generator: torch.Generator,
        device: torch.device,
        edge_weights: bool = False,
    ) -> None:
        self.sizes = [len(decision.choices) for decision in decisions]
        self.nodes = with_own_operators(nodes_of(supernet))
        self._joins = {node.join: node for node in nodes_of(supernet) if node.join is not None}
        derived = {node.join for node in self.nodes}

        def first(size: int) -> nn.Parameter:
            drawn = 1e-3 * torch.randn(size, generator=generator)
            return nn.Parameter(drawn.to(device))

        self.alphas = {d: first(n) for d, n in enumerate(self.sizes) if d not in derived}
        self.betas = [first(len(node.edges)) for node in self.nodes] if edge_weights else []
        self._edges = {
            decision: (number, index)
            for number, node in enumerate(self.nodes)
            for index, decision in enumerate(node.edges)
        }
        self._meant = _meant(supernet, self.sizes, bool(derived - {None}), device)

    @property
    def possible(self) -> list[int]:
        """How many choices of each decision are meant to be chosen."""
        return [int((of == 0).sum()) for of in self._meant]

    def parameters(self) -> list[nn.Parameter]:
        return [*self.alphas.values(), *self.betas]

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """No gradients of the parameters for a while."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.parameters():
                parameter.requires_grad_(True)

    def __call__(self, decision: int, candidates: Sequence[nn.Module], *inputs: Tensor) -> Tensor:
        if decision in self._joins:
            return self._joined(self._joins[decision], inputs)
        return mixture(candidates, self._weights(decision), *inputs)

    def _weights(self, decision: int) -> Tensor:
        """(choices,) of the candidates of a decision; the weight of its edge is in them."""
        weights = self.alphas[decision].softmax(0)
        of_edge = self.edge_weight(decision)
        return weights if of_edge is None else weights * of_edge

    def edge_weight(self, decision: int) -> Tensor | None:
        """Of the edge that a decision is about, a scalar; None if edges have none."""
        if not self.betas or decision not in self._edges:
            return None
        number, index = self._edges[decision]
        return self.betas[number].softmax(0)[index]

    def _joined(self, node: Node, edges: Sequence[Tensor]) -> Tensor:
        assert node.join is not None
        if node.join not in self.alphas:
            return weighted_sum(edges)
        options = self.alphas[node.join].softmax(0)
        taking = [[i in option for option in node.options] for i in range(len(edges))]
        return weighted_sum(edges, options.new_tensor(taking) @ options)

    def probabilities(self) -> list[Tensor]:
        """(choices,) for each decision, summing to 1: what the relaxation leans to.

        Of operators, the softmax over those that are meant to be chosen. Of the decision which
        edges end in a node, the product of the strengths of its edges, over all choices.
        """
        found = {
            decision: (alpha + self._meant[decision]).softmax(0)
            for decision, alpha in self.alphas.items()
        }
        for number, node in enumerate(self.nodes):
            if node.join is not None:
                strengths = torch.stack(
                    [
                        (logs + self._meant[decision]).max()
                        for decision, logs in self._log_weights(number, node).items()
                    ]
                )
                chosen = torch.stack([strengths[list(option)].sum() for option in node.options])
                found[node.join] = chosen.softmax(0)
        return [found[decision] for decision in range(len(self.sizes))]

    def _log_weights(self, number: int, node: Node) -> dict[int, Tensor]:
        """For the decision on each edge of a node, the logarithms of its candidates' weights."""
        logs = {d: self.alphas[d].log_softmax(0) for d in node.edges if d is not None}
        if self.betas:
            of_edges = self.betas[number].log_softmax(0).unbind()
            logs = {d: log + edge for (d, log), edge in zip(logs.items(), of_edges, strict=True)}
        return logs

    @torch.no_grad()
    def best(
        self, limits: Sequence[Limit], n: int, *, exclude: Collection[Arch] = frozenset()
    ) -> list[Arch]:
        """The `n` architectures within every limit with the highest score, found exactly.

        The score is the sum of the log-weights of what an architecture takes; of an edge that ends
        nowhere nothing counts. So without limits the best is what DARTS derives (section 2.4):
        into each node the two edges whose strongest operator other than ``none`` is strongest, each
        with that operator, since the two highest of the edges' log-weights have the highest sum.
        Within limits, one ``none`` less is better than any log-weights.
        """
        logs = self._all_log_weights()
        # below any sum of log-weights: a "none", and below any number of those, an idle operator
        last = -1.0 - sum(float(-log.min()) for log in logs.values())
        never = 2 * (len(logs) + 1) * last
        score = CompiledCost.of_tables(self._score_tables(logs, last, never), self.sizes)
        found = highest_within(score, limits, n=n, exclude=exclude)
        costs = score(found)
        return [arch for arch, cost in zip(found, costs, strict=True) if cost > 0.75 * never]

    def _all_log_weights(self) -> dict[int, Tensor]:
        logs = {d: alpha.double().log_softmax(0) for d, alpha in self.alphas.items()}
        for number, node in enumerate(self.nodes):
            logs |= {d: log.double() for d, log in self._log_weights(number, node).items()}
        return logs

    def _score_tables(self, logs: dict[int, Tensor], last: float, never: float) -> list[Term]:
        values = {
            d: (log + self._meant[d].clamp(min=last)).cpu().numpy() for d, log in logs.items()
        }
        tables: list[Term] = []
        for node in self.nodes:
            for index, decision in enumerate(node.edges):
                if node.join is not None and decision is not None:
                    taken = values.pop(decision)
                    # of an idle edge the first choice stands for all: they are one architecture
                    idle = np.full_like(taken, never)
                    idle[0] = 0.0
                    rows = [taken if index in option else idle for option in node.options]
                    tables.append(((node.join, decision), np.stack(rows)))
        return [*tables, *(((decision,), value) for decision, value in values.items())]


def _meant(
    supernet: Supernet, sizes: Sequence[int], edges_are_decided: bool, device: torch.device
) -> list[Tensor]:
    """For each decision, what is added to the logarithms of its choices: -inf for ``none``."""
    meant = [torch.zeros(size, device=device) for size in sizes]
    for choice in supernet.modules() if edges_are_decided else ():
        if isinstance(choice, Choice):
            of = meant[choice.decision]
            for index, candidate in enumerate(choice.candidates):
                if isinstance(candidate, Zeros) and len(of) > 1:
                    of[index] = -torch.inf
    return meant


def keep_affine_fixed(supernet: Supernet) -> None:
    """No gradients for scale and shift of the batch norm inside the candidates of cells.

    Else the scale of a candidate could undo its weight in the mixture, which is why the published
    search has ``affine=False``; as they stand at 1 and 0, this is the same. Blocks of other spaces
    may begin with a scale of zero and are left alone.
    """
    if not isinstance(supernet.body, Network):
        return
    for choice in supernet.modules():
        if isinstance(choice, Choice):
            for module in choice.candidates.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.requires_grad_(False)
