"""The gradient of a validation loss in the alphas, through one step of the weights.

Liu, Simonyan, Yang, "DARTS" (ICLR 2019, arXiv:1806.09055), section 2.3, equations 6 to 8. With the
weights w' = w - rate * step(w, alpha) of one step of training, the gradient of L_valid(w', alpha)
is the direct one at w' less rate * d2 L_train(w, alpha) / (d alpha d w) times v, where v is the
gradient of L_valid in w'. That product is a difference of two gradients of L_train in the alphas,
at w + r v and at w - r v, with r = 0.01 / ||v||.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Loss = Callable[[], Tensor]

_RADIUS = 0.01


@dataclass(frozen=True, slots=True)
class InnerStep:
    """A step of SGD with momentum and weight decay, as the weights' own optimiser would do it.

    Attributes:
        rate: Learning rate.
        momentum: Plain, not Nesterov's.
        decays: Weight decay of each weight.
        buffers: The momentum of each weight so far, None before the first step.
    """

    rate: float
    momentum: float
    decays: tuple[float, ...]
    buffers: tuple[Tensor | None, ...]

    @classmethod
    def of(cls, optimizer: torch.optim.SGD, weights: Sequence[nn.Parameter]) -> InnerStep:
        """What `optimizer` would do next to each of `weights`."""
        groups = {p: group for group in optimizer.param_groups for p in group["params"]}
        first = groups[weights[0]]
        if any(group["nesterov"] for group in groups.values()):
            raise ValueError("A step that looks ahead is another step than this")
        return cls(
            first["lr"],
            first["momentum"],
            tuple(groups[weight]["weight_decay"] for weight in weights),
            tuple(optimizer.state[weight].get("momentum_buffer") for weight in weights),
        )

    def after(self, weights: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[Tensor]:
        """The weights after the step; differentiable in both."""
        # all weights in one call each: a network has over a thousand, most of them small
        buffers = [
            torch.zeros_like(weight) if buffer is None else buffer
            for weight, buffer in zip(weights, self.buffers, strict=True)
        ]
        decayed = torch._foreach_mul(list(weights), self.decays)
        steps = torch._foreach_add(list(gradients), decayed)
        steps = torch._foreach_add(steps, buffers, alpha=self.momentum)
        return list(torch._foreach_add(list(weights), steps, alpha=-self.rate))


def unrolled_gradients(
    alphas: Sequence[nn.Parameter],
    weights: Sequence[nn.Parameter],
    inner: InnerStep,
    *,
    train_loss: Loss,
    valid_loss: Loss,
) -> tuple[Tensor, list[Tensor]]:
    """The loss behind the step, and its gradient in each of `alphas`.

    The weights are moved while this runs and are then bit by bit what they were. Of the four
    backward passes the last two want no gradients of the weights.

    Args:
        train_loss, valid_loss: Computed anew at every call, from `alphas` and `weights`.
    """
    before = [weight.detach().clone() for weight in weights]
    try:
        gradients = _gradients(train_loss(), weights)
        _set(weights, inner.after(before, gradients))
        loss = valid_loss()
        both = _gradients(loss, [*alphas, *weights])
        direct, vector = both[: len(alphas)], both[len(alphas) :]
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(vector)))
        if not float(norm) > 0:  # of a loss that is not finite neither; the caller sees that
            return loss.detach(), direct
        radius = _RADIUS / norm
        sides = []
        for weight in weights:
            weight.requires_grad_(False)
        for sign in (1, -1):
            _set(weights, torch._foreach_add(before, vector, alpha=sign * float(radius)))
            sides.append(_gradients(train_loss(), alphas))
    finally:
        _set(weights, before)
        for weight in weights:
            weight.requires_grad_(True)
    scale = inner.rate / (2 * radius)
    through = [d - scale * (up - down) for d, up, down in zip(direct, *sides, strict=True)]
    return loss.detach(), through


def _gradients(loss: Tensor, of: Sequence[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of, allow_unused=True, materialize_grads=True))


@torch.no_grad()
def _set(weights: Sequence[nn.Parameter], values: Sequence[Tensor]) -> None:
    torch._foreach_copy_(list(weights), list(values))
