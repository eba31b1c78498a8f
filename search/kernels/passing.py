"""Partial channels: what was operated on and what passes by, weighed and shuffled in one pass.

Stock operators take four passes over all channels forward (weigh, join, two of the shuffle) and
more backward, for each edge.
"""

from __future__ import annotations

import ctypes
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from nasdeploy.search.kernels.library import address, dense, dense_like, loaded, threads


def in_turns(chosen: Tensor, others: Tensor, weight: Tensor | None, groups: int) -> Tensor:
    """The first channel of each group, then the second of each, and so on.

    Args:
        chosen: (N, C / groups, H, W), the first group, that the kernels serve.
        others: (N, at least C - C / groups, H, W); its last channels are the other groups.
        weight: () of the other groups; None for one.

    Returns:
        (N, C, H, W) in channels_last.
    """
    return cast(Tensor, _InTurns.apply(chosen, others, weight, groups))


class _InTurns(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, chosen: Tensor, others: Tensor, weight: Tensor | None, groups: int
    ) -> Tensor:
        chosen, others = dense(chosen), dense(others)
        images, part, height, width = chosen.shape
        ctx.shape = (ctypes.c_int64 * 5)(images, height * width, part, groups, others.shape[1])
        ctx.share = ctypes.c_double(1.0 if weight is None else float(weight))
        out = dense_like(chosen, part * groups, (height, width))
        loaded().passing_forward(
            ctx.shape, address(chosen), address(others), ctx.share, address(out), threads()
        )
        ctx.chosen_shape = chosen.shape
        ctx.save_for_backward(others)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (others,) = ctx.saved_tensors
        needs_chosen, needs_others, needs_weight, _ = ctx.needs_input_grad
        g = dense(upstream)
        to_chosen = to_others = to_weight = None
        if needs_chosen:
            to_chosen = torch.empty(ctx.chosen_shape, memory_format=torch.channels_last)
        if needs_others:
            to_others = torch.empty_like(others)
        if needs_weight:
            to_weight = torch.empty((), dtype=torch.float64)
        loaded().passing_backward(
            ctx.shape, address(others), ctx.share, address(g), address(to_chosen),
            address(to_others), address(to_weight), threads(),
        )  # fmt: skip
        return to_chosen, to_others, None if to_weight is None else to_weight.float(), None
