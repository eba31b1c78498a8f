"""Whole steps with the kernels have the gradients of whole steps without them."""

from __future__ import annotations

import copy
from random import Random

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nasdeploy.search.kernels.library import library
from nasdeploy.search.relaxation import Relaxation
from nasdeploy.search.spaces import make_space
from nasdeploy.search.supernet import SinglePath
from nasdeploy.search.task import Classification

pytestmark = pytest.mark.skipif(library() is None, reason="needs a C++ compiler: apt install g++")
TASK = Classification()


def relative(found: Tensor, reference: Tensor) -> float:
    return float((found.double() - reference).norm() / reference.norm())


@pytest.mark.parametrize("partial", [1, 2])
def test_architecture_gradients_of_darts_are_those_of_float64(partial: int) -> None:
    # where rounding puts one number on the other side of a ReLU, that number is seen in the
    # gradients: about once in ten sets of images, with stock operators too
    *most, _ = sorted(_far_from_float64(partial, seed) for seed in range(5))
    assert max(most) < 1e-5


def _far_from_float64(partial: int, seed: int) -> float:
    space = make_space("darts", input_shape=(3, 16, 16), classes=4, channels=8, layers=3)
    torch.manual_seed(seed)
    ours = space.supernet(  # type: ignore[call-arg]
        SinglePath(()), task=TASK, partial_channels=partial
    ).train()
    exact = copy.deepcopy(ours).double()
    x, y = torch.randn(32, 3, 16, 16), torch.randint(4, (32,))
    gradients = []
    for net, images in ((ours.to(memory_format=torch.channels_last), x), (exact, x.double())):
        relaxation = Relaxation(
            net, space.decisions, generator=torch.Generator().manual_seed(1),
            device=torch.device("cpu"), edge_weights=partial > 1,
        )  # fmt: skip
        with net.mixed_by(relaxation):
            loss = functional.cross_entropy(net(images), y)
        found = torch.autograd.grad(loss, relaxation.parameters())
        gradients.append(torch.cat([gradient.flatten().double() for gradient in found]))
    return relative(gradients[0], gradients[1])


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("mobile-small", {"input_shape": (3, 32, 32), "classes": 4}),
        ("enas-micro", {"input_shape": (3, 16, 16), "classes": 4, "channels": 6, "layers": 3}),
        ("enas-macro", {"input_shape": (3, 16, 16), "classes": 4, "channels": 6, "layers": 3}),
    ],
)
def test_weight_gradients_of_a_path_are_those_of_float64(
    name: str, parameters: dict[str, object]
) -> None:
    space = make_space(name, **parameters)
    torch.manual_seed(0)
    arch = space.sample(Random(3))
    ours = space.supernet(SinglePath(arch), task=TASK).train()
    for module in ours.modules():  # blocks may begin with a scale of zero
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.1)
    exact = copy.deepcopy(ours).double()
    x, y = torch.randn(8, 3, *space.deployment.input_shape[1:]), torch.randint(4, (8,))
    functional.cross_entropy(ours.to(memory_format=torch.channels_last)(x), y).backward()  # type: ignore[no-untyped-call]
    functional.cross_entropy(exact(x.double()), y).backward()  # type: ignore[no-untyped-call]
    pairs = [
        (mine.grad.flatten().double(), theirs.grad.flatten())
        for mine, theirs in zip(ours.parameters(), exact.parameters(), strict=True)
        if mine.grad is not None and theirs.grad is not None
    ]
    mine, theirs = (torch.cat(list(side)) for side in zip(*pairs, strict=True))
    assert len(pairs) > 10 and relative(mine, theirs) < 1e-4
