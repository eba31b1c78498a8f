"""Average pools in other forms: the same numbers, whatever size, stride and rounding."""

from __future__ import annotations

import pytest
import torch

from nasdeploy.export.pools import (
    Form,
    as_convolution,
    average_pool,
    padded_pool,
    pooled_then_thinned,
    rewritten,
)

POOLS = {
    "same size": torch.nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "half the size": torch.nn.AvgPool2d(3, 2, 1, count_include_pad=False),
    "padding counts": torch.nn.AvgPool2d(3, 2, 1),
    "rounded up": torch.nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
    "another divisor": torch.nn.AvgPool2d(2, 2, divisor_override=3),
    "not square": torch.nn.AvgPool2d((3, 5), (1, 2), (1, 2), count_include_pad=False),
}


@pytest.mark.parametrize("form", [as_convolution, padded_pool])
@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
@pytest.mark.parametrize("name", sorted(POOLS))
def test_another_form_of_a_pool_computes_the_same(
    name: str, size: tuple[int, int], form: Form
) -> None:
    x = torch.randn(2, 3, *size)
    model = torch.nn.Sequential(torch.nn.ReLU(), POOLS[name])
    wanted = model(x)
    other = rewritten(model, (x,), average_pool, form)
    assert POOLS[name] not in list(other.modules())
    torch.testing.assert_close(other(x), wanted)


def test_a_pool_that_sees_several_sizes_stays_as_it_is() -> None:
    class Twice(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pool = torch.nn.AvgPool2d(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.pool(self.pool(x)))

    model = rewritten(Twice(), (torch.zeros(1, 3, 8, 8),), average_pool, as_convolution)
    assert isinstance(model.get_submodule("pool"), torch.nn.AvgPool2d)


def test_only_the_pools_that_are_wanted_change() -> None:
    model = torch.nn.Sequential(torch.nn.AvgPool2d(2), torch.nn.AvgPool2d(2, ceil_mode=True))
    last = model[1]
    rewritten(model, (torch.zeros(1, 3, 9, 9),), lambda part: part is last, padded_pool)
    assert isinstance(model[0], torch.nn.AvgPool2d)
    assert not isinstance(model[1], torch.nn.AvgPool2d)


@pytest.mark.parametrize("size", [(8, 8), (7, 9)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 2), (5, 3)])
def test_a_max_pool_can_be_thinned_afterwards(
    kernel: int, stride: int, size: tuple[int, int]
) -> None:
    x = torch.randn(2, 3, *size)
    pool = torch.nn.MaxPool2d(kernel, stride, kernel // 2)
    model = torch.nn.Sequential(pool)
    other = rewritten(model, (x,), lambda part: part is pool, pooled_then_thinned)
    torch.testing.assert_close(other(x), pool(x))
