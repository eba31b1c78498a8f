from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasdeploy.search.bilevel import InnerStep, unrolled_gradients


class _Problem:
    """A mixture of two layers under alphas, small enough to differentiate through its step."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        draw = partial(torch.randn, generator=generator, dtype=torch.float64)
        self.alphas = [nn.Parameter(draw(3)), nn.Parameter(draw(2))]
        self.weights = [nn.Parameter(0.5 * draw(5, 5)) for _ in range(4)]
        self.inputs, self.targets = draw(2, 16, 5), torch.arange(32).view(2, 16) % 5

    def loss(self, half: int, weights: list[Tensor], alphas: list[Tensor]) -> Tensor:
        x = self.inputs[half]
        first = torch.stack([x, torch.tanh(x @ weights[0]), functional.silu(x @ weights[1])])
        x = torch.einsum("c,cno->no", alphas[0].softmax(0), first)
        second = torch.stack([torch.tanh(x @ weights[2]), x])
        x = torch.einsum("c,cno->no", alphas[1].softmax(0), second)
        return functional.cross_entropy(x @ weights[3], self.targets[half])


@pytest.mark.parametrize("momentum", [False, True])
def test_the_second_order_gradient_is_that_of_autograd_through_the_step(momentum: bool) -> None:
    problem = _Problem()
    decayed, other = problem.weights[:3], problem.weights[3:]
    groups: list[dict[str, Any]] = [{"params": decayed, "weight_decay": 0.01}, {"params": other}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
    if momentum:
        for _ in range(2):
            optimizer.zero_grad()
            problem.loss(0, [*problem.weights], [*problem.alphas]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    inner = InnerStep.of(optimizer, problem.weights)
    train = problem.loss(0, [*problem.weights], [*problem.alphas])
    gradients = torch.autograd.grad(train, problem.weights, create_graph=True)
    ahead = inner.after(problem.weights, gradients)
    exact_loss = problem.loss(1, ahead, [*problem.alphas])
    exact = torch.autograd.grad(exact_loss, problem.alphas)

    before = [weight.detach().clone() for weight in problem.weights]
    loss, found = unrolled_gradients(
        problem.alphas,
        problem.weights,
        inner,
        train_loss=lambda: problem.loss(0, [*problem.weights], [*problem.alphas]),
        valid_loss=lambda: problem.loss(1, [*problem.weights], [*problem.alphas]),
    )
    assert float(loss) == pytest.approx(float(exact_loss.detach()), rel=1e-12)
    for mine, theirs in zip(found, exact, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < 1e-3
    first_order = torch.autograd.grad(
        problem.loss(1, [w.detach() for w in ahead], [*problem.alphas]), problem.alphas
    )
    assert float((found[0] - first_order[0]).norm() / exact[0].norm()) > 1e-2
    assert all(torch.equal(a, b) for a, b in zip(before, problem.weights, strict=True))
    assert all(weight.requires_grad for weight in problem.weights)

    optimizer.zero_grad()
    problem.loss(0, [*problem.weights], [*problem.alphas]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    for stepped, foreseen in zip(problem.weights, ahead, strict=True):
        assert torch.allclose(stepped, foreseen, rtol=1e-12)


def test_a_step_that_looks_ahead_is_not_taken_for_one_that_does_not() -> None:
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9, nesterov=True)
    with pytest.raises(ValueError, match="looks ahead"):
        InnerStep.of(optimizer, [weight])


def test_a_validation_loss_that_no_weight_moves_has_its_direct_gradient() -> None:
    alpha, weight = nn.Parameter(torch.tensor([1.0, 2.0])), nn.Parameter(torch.ones(2))
    inner = InnerStep(0.1, 0.0, (0.0,), (None,))
    _, (found,) = unrolled_gradients(
        [alpha],
        [weight],
        inner,
        train_loss=lambda: (alpha * weight).sum(),
        valid_loss=lambda: (alpha**2).sum(),
    )
    assert torch.equal(found, torch.tensor([2.0, 4.0]))
    assert weight.requires_grad and torch.equal(weight, torch.ones(2))
