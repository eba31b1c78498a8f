"""The weighted sum of a decision's candidates, as one where the kernels serve it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from nasdeploy.search.cell_ops import AvgPool, Chained, MaxPool, Zeros
from nasdeploy.search.kernels.library import serves
from nasdeploy.search.kernels.unit import Chain, sum_of, weighted_chains
from nasdeploy.search.sharing import shared


def mixture(candidates: Sequence[nn.Module], weights: Tensor, *inputs: Tensor) -> Tensor:
    """The sum of `weights` times the outputs of all candidates on `inputs`.

    What carries zeros is not computed: neither the sum nor any gradient depends on it. Chains of
    units are computed as one with the sum, pools once for all edges with the same features.

    Args:
        weights: (candidates,).
    """
    counting = [i for i, candidate in enumerate(candidates) if not isinstance(candidate, Zeros)]
    if not counting:
        return cast(Tensor, candidates[0](*inputs))
    chains: dict[int, Chain] = {}
    if len(inputs) == 1 and serves(inputs[0]):
        for index in counting:
            candidate = candidates[index]
            if isinstance(candidate, Chained) and candidate.training:
                chain = candidate.chain()
                if chain is not None:
                    chains[index] = chain
    others = {i: _output(candidates[i], *inputs) for i in counting if i not in chains}
    if not chains:
        return weighted_sum(list(others.values()), weights[counting])
    return weighted_chains(inputs[0], chains, others, weights)


def weighted_sum(terms: Sequence[Tensor], weights: Tensor | None = None) -> Tensor:
    """The sum of `weights` times the terms, read once.

    Args:
        terms: (N, C, H, W) each.
        weights: (terms,); None for ones.
    """
    if serves(terms[0]) and torch.is_grad_enabled():
        if weights is None:
            return sum_of(terms)
        return weighted_chains(terms[0], {}, dict(enumerate(terms)), weights)
    total = terms[0] if weights is None else terms[0] * weights[0]
    for index, term in enumerate(terms[1:], start=1):
        total = total + (term if weights is None else term * weights[index])
    return total


def _output(candidate: nn.Module, *inputs: Tensor) -> Tensor:
    if isinstance(candidate, nn.Identity):
        return inputs[0]
    if isinstance(candidate, AvgPool | MaxPool):
        return shared(inputs[0], (type(candidate), candidate.window), candidate)
    return cast(Tensor, candidate(*inputs))
