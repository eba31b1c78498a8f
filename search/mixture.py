"""The weighted sum of a decision's candidates, as one where the kernels serve it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from nasdeploy.search.cell_ops import AvgPool, Chained, MaxPool, Zeros
from nasdeploy.search.kernels.library import serves
from nasdeploy.search.kernels.unit import Chain, weighted_chains
from nasdeploy.search.sharing import shared


def mixture(candidates: Sequence[nn.Module], weights: Tensor, x: Tensor) -> Tensor:
    """The sum of `weights` times the outputs of all candidates on `x`.

    What carries zeros is not computed: neither the sum nor any gradient depends on it.

    Args:
        weights: (candidates,).
    """
    counting = [i for i, candidate in enumerate(candidates) if not isinstance(candidate, Zeros)]
    if not counting:
        return cast(Tensor, candidates[0](x))
    if not serves(x):
        return _plain([_output(candidates[i], x) for i in counting], weights[counting])
    chains: list[Chain] = []
    others: list[Tensor] = []
    order: tuple[list[int], list[int]] = [], []
    for index in counting:
        candidate = candidates[index]
        chain = candidate.chain() if isinstance(candidate, Chained) and candidate.training else None
        if chain is None:
            others.append(_output(candidate, x))
        else:
            chains.append(chain)
        order[chain is None].append(index)
    return weighted_chains(x, chains, others, weights[[*order[0], *order[1]]])


def _output(candidate: nn.Module, x: Tensor) -> Tensor:
    if isinstance(candidate, nn.Identity):
        return x
    if isinstance(candidate, AvgPool | MaxPool):
        return shared(x, (type(candidate), candidate.window), candidate)
    return cast(Tensor, candidate(x))


def _plain(outputs: Sequence[Tensor], weights: Tensor) -> Tensor:
    total = outputs[0] * weights[0]
    for output, weight in zip(outputs[1:], weights[1:], strict=True):
        total = torch.addcmul(total, output, weight)
    return total
