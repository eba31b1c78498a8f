"""The space `mobile` as cost terms, written out here so that tables are tested on their own."""

from __future__ import annotations

from dataclasses import dataclass

from nasdeploy.latency_tables.cost import CostTerm
from nasdeploy.latency_tables.key import OpKey

# ProxylessNAS (arXiv:1812.00332), as published in its code: channels, blocks and stride of a stage.
STAGES = ((24, 4, 2), (40, 4, 2), (80, 4, 2), (96, 4, 1), (192, 4, 2), (320, 1, 1))


@dataclass(frozen=True)
class Mobile:
    terms: tuple[CostTerm, ...]
    choices: tuple[int, ...]


def _block(channels: int, size: int, out: int, stride: int, expand: int, kernel: int) -> str:
    shape = (channels, size, size)
    key = OpKey.of("mbconv", [shape], expand=expand, kernel=kernel, out=out, stride=stride)
    return str(key)


def mobile_terms() -> Mobile:
    """At 3x224x224 with 1000 classes: 22 decisions, of 3, 6 or 7 choices."""
    fixed = [
        OpKey.of("conv_bn_relu6", [(3, 224, 224)], kernel=3, out=32, stride=2),
        OpKey.of("conv_bn_relu6", [(320, 7, 7)], kernel=1, out=1280, stride=1),
        OpKey.of("classifier", [(1280, 7, 7)], classes=1000),
    ]
    terms = [CostTerm((), (), ((str(key),),)) for key in fixed]
    blocks: list[tuple[tuple[str, ...], ...]] = [
        tuple((_block(32, 112, 16, 1, 1, kernel),) for kernel in (3, 5, 7))
    ]
    channels, size = 16, 112
    for out, repeats, first_stride in STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            options: list[tuple[str, ...]] = [
                (_block(channels, size, out, stride, expand, kernel),)
                for expand in (3, 6)
                for kernel in (3, 5, 7)
            ]
            if stride == 1 and channels == out:
                options.append(())
            blocks.append(tuple(options))
            channels, size = out, size // stride
    choices = tuple(len(options) for options in blocks)
    terms += [CostTerm((n,), (len(o),), o) for n, o in enumerate(blocks)]
    return Mobile(tuple(terms), choices)


# proxyless_mobile as published: its benchmark log on a Pixel 1 (mit-han-lab/proxylessnas,
# logs/proxyless_mobile_10_latency.txt; TensorFlow Lite, 1 thread) names each block, and ends with
# a mean of 80.6702 ms over 100 runs. Written (expansion, kernel), None for a skip.
_PUBLISHED = (
    (3, 5), (3, 3), None, None,
    (3, 7), (3, 3), (3, 5), (3, 5),
    (6, 7), (3, 5), (3, 5), (3, 5),
    (6, 5), (3, 5), (3, 5), (3, 5),
    (6, 7), (6, 7), (3, 7), (3, 7),
    (6, 7),
)  # fmt: skip
PROXYLESS_MOBILE = (
    0,
    *(6 if block is None else 3 * (block[0] == 6) + (block[1] - 3) // 2 for block in _PUBLISHED),
)
PROXYLESS_MOBILE_MS = 80.6702
