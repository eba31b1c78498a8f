"""Two graphs that every measuring round carries beside the operators.

The *empty* graph costs what any invocation costs, and is subtracted; the *sentinel* always costs
the same, so that when it drifts, the device has, and the round is measured again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

EMPTY_INPUT_SHAPES: tuple[tuple[int, ...], ...] = ((8,),)
SENTINEL_INPUT_SHAPES: tuple[tuple[int, ...], ...] = ((64, 28, 28),)


def empty_module() -> nn.Module:
    """``x + x`` on 8 numbers: the least that a runtime runs as an operator of its own."""
    from torch import nn

    class Empty(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + x

    return Empty().eval()


def sentinel_module() -> nn.Module:
    """An inverted bottleneck of 13.8 M multiply-accumulates, 3x3 so that no kernel is exotic.

    About 0.3 ms on a desktop core and 1 ms on a phone's: long against the clock, short in a round.
    """
    from torch import nn

    layers = [
        *(nn.Conv2d(64, 128, 1, bias=False), nn.BatchNorm2d(128), nn.ReLU6()),
        *(nn.Conv2d(128, 128, 3, padding=1, groups=128, bias=False), nn.BatchNorm2d(128)),
        nn.ReLU6(),
        *(nn.Conv2d(128, 64, 1, bias=False), nn.BatchNorm2d(64)),
    ]
    return nn.Sequential(*layers).eval()
