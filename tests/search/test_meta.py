from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import init

from nasdeploy.search.meta import without_values


def test_what_is_built_has_shapes_and_no_values() -> None:
    with without_values():
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 2))
    assert {tensor.device.type for tensor in module.state_dict().values()} == {"meta"}
    assert module[0].weight.shape == (8, 3, 3, 3)


@pytest.mark.parametrize(
    "draw",
    [
        init.kaiming_normal_, init.kaiming_uniform_, init.normal_, init.uniform_,
        init.xavier_uniform_, init.trunc_normal_, Tensor.normal_, Tensor.uniform_,
    ],
    ids=lambda draw: draw.__name__,
)  # fmt: skip
def test_nothing_is_drawn_and_the_random_state_stays(draw: object) -> None:
    assert callable(draw)
    weight, before = torch.zeros(4, 4), torch.random.get_rng_state()
    with without_values():
        assert draw(weight) is weight
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not weight.any()
