"""Pools in the words that a format has: what they do, and how it is put in others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, slots=True, eq=False)
class Averaging:
    """An average pool on images of one shape, as a mean that counts padding times a correction.

    Attributes:
        padding: Of the image by zeros, as torch's `pad` takes it: left, right, top, bottom.
        correction: (1, 1, height, width) of the output: the window's size by the pool's divisor.
    """

    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int, int, int]
    correction: Tensor

    @classmethod
    def of(cls, pool: nn.AvgPool2d, shape: Sequence[int]) -> Averaging:
        """What `pool` does to images of `shape`, (channels, height, width)."""
        import torch
        from torch.nn import functional

        channels, *size = shape
        kernel, stride, before = map(_sides, (pool.kernel_size, pool.stride, pool.padding))
        counted = pool(torch.ones(1, 1, *size))
        behind = [
            max(0, (out - 1) * step + side - first - inside)
            for out, step, side, first, inside in zip(
                counted.shape[2:], stride, kernel, before, size, strict=True
            )
        ]
        padding = (before[1], behind[1], before[0], behind[0])
        ones = functional.pad(torch.ones(1, 1, *size), padding)
        whole = functional.avg_pool2d(ones, kernel, stride)
        return cls(channels, kernel, stride, padding, counted / whole)


Form = Callable[[Any, Sequence[int]], "nn.Module"]
"""(a pool, the shape of its images) to what computes the same."""


def padded_pool(given: nn.AvgPool2d, shape: Sequence[int]) -> nn.Module:
    """An average pool that counts its padding, times a constant."""
    import torch

    pool = Averaging.of(given, shape)
    parts: list[nn.Module] = [torch.nn.AvgPool2d(pool.kernel, pool.stride)]
    if any(pool.padding):
        parts.insert(0, torch.nn.ZeroPad2d(pool.padding))
    if (pool.correction != 1).any():
        parts.append(_times(pool.correction))
    return torch.nn.Sequential(*parts)


def as_convolution(given: nn.AvgPool2d, shape: Sequence[int]) -> nn.Module:
    """An average pool as a depthwise convolution of equal weights, times a constant at the border.

    For int8: runtimes have quick kernels for convolutions, and slow ones for average pools.
    """
    import torch

    pool = Averaging.of(given, shape)
    left, right, top, bottom = pool.padding
    # formats pad both sides alike: where more is needed behind, the window begins with zeros
    extra = max(0, bottom - top), max(0, right - left)
    height, width = (side + more for side, more in zip(pool.kernel, extra, strict=True))
    weights = torch.zeros(pool.channels, 1, height, width)
    weights[:, :, extra[0] :, extra[1] :] = 1 / (pool.kernel[0] * pool.kernel[1])
    convolution = torch.nn.Conv2d(
        pool.channels, pool.channels, (height, width), pool.stride,
        (max(top, bottom), max(left, right)), groups=pool.channels, bias=False,
    )  # fmt: skip
    convolution.weight = torch.nn.Parameter(weights, requires_grad=False)
    parts: list[nn.Module] = [convolution]
    if (pool.correction != 1).any():
        # of full size, so that no layout has to spread it
        parts.append(_times(pool.correction.repeat(1, pool.channels, 1, 1)))
    return torch.nn.Sequential(*parts)


def pooled_then_thinned(given: nn.MaxPool2d, shape: Sequence[int]) -> nn.Module:
    """A max pool with a stride as one without, and a depthwise convolution that takes every n-th.

    For formats whose pools of a stride cannot be padded on both sides.
    """
    import torch

    channels = shape[0]
    same = torch.nn.MaxPool2d(given.kernel_size, 1, given.padding)
    thin = torch.nn.Conv2d(channels, channels, 1, given.stride, groups=channels, bias=False)
    torch.nn.init.ones_(thin.requires_grad_(False).weight)
    return torch.nn.Sequential(same, thin)


def _times(constant: Tensor) -> nn.Module:
    import torch

    class Times(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("constant", constant)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.get_buffer("constant")

    return Times()


def rewritten(
    model: nn.Module,
    example_input: tuple[Tensor, ...],
    wanted: Callable[[nn.Module], bool],
    form: Form,
) -> nn.Module:
    """`model`, changed in place: the pools that are wanted, in another form.

    A pool that sees images of several shapes stays as it is, since a form is for one of them.
    """
    import torch

    root = torch.nn.ModuleList([model])  # so that every pool has a parent
    pools = {name: part for name, part in root.named_modules() if wanted(part)}
    shapes: dict[str, set[tuple[int, ...]]] = {name: set() for name in pools}
    hooks = [
        part.register_forward_pre_hook(
            lambda _, inputs, seen=shapes[name]: seen.add(tuple(inputs[0].shape[1:]))
        )
        for name, part in pools.items()
    ]
    with torch.no_grad():
        model(*example_input)
    for hook in hooks:
        hook.remove()
    for name, seen in shapes.items():
        if len(seen) == 1:
            parent, _, child = name.rpartition(".")
            other = form(pools[name], next(iter(seen)))
            setattr(root.get_submodule(parent), child, other)
    return root[0].eval()


def average_pool(part: nn.Module) -> bool:
    import torch

    return isinstance(part, torch.nn.AvgPool2d)


def _sides(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size
