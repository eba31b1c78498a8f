"""What a supernet costs on average, differentiable in the probabilities of its choices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nasdeploy.latency_tables.cost import CompiledCost


def expected_cost(cost: CompiledCost, probabilities: Sequence[Tensor]) -> Tensor:
    """The mean cost of an architecture whose decisions are drawn independently.

    ProxylessNAS (arXiv:1812.00332), section 3.3, equation 5, for terms over any number of
    decisions: each term's table is contracted with the probabilities of the decisions it looks at.

    Args:
        cost: A sum; of a maximum there is no such expectation.
        probabilities: (choices,) for each decision, summing to 1.
    Returns: scalar, in the unit of `cost`.
    """
    if cost.reduce != "sum":
        raise ValueError("Only a cost that is a sum over terms has an expectation term by term")
    total = probabilities[0].new_zeros(())
    for decisions, table in cost.terms:
        part = torch.tensor(table, dtype=total.dtype, device=total.device)
        for decision in decisions:
            part = torch.tensordot(probabilities[decision], part, dims=1)
        total = total + part
    return total
