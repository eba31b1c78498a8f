"""Large depthwise convolutions as sums of small ones, for XNNPACK.

XNNPACK's depthwise kernels take at most 25 weights a channel, as 5x5 has. What is larger goes to
its grouped convolution, a channel at a time, which takes several times as long as three small
kernels do. A convolution is a sum over its rows, so it is written as one: 7x7 as rows (2, 3, 4),
(1, 5) and (0, 6), dilated so far that they lie where they lay. In fp32 the sum differs by rounding
alone; in int8 the addends are rounded to 8 bits as every other tensor is.
"""

from __future__ import annotations

import functools
import operator
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

_MOST_WEIGHTS = 25


def split_depthwise(model: nn.Module, example_input: tuple[Tensor, ...]) -> nn.Module:
    """`model`, changed in place: depthwise convolutions of more than 25 weights a channel in parts.

    A batch norm behind one goes into the weights, as converters would do with a whole one. What
    cannot be split stays: a convolution that is called more than once, that is not padded as far as
    its outer rows lie from the middle, or that is too wide for two rows.
    """
    import torch

    root = torch.nn.ModuleList([model])  # so that every convolution has a parent
    large = {name: part for name, part in model.named_modules() if _is_large(part)}
    for name, norm in _called_once(model, example_input).items() if large else ():
        part: Any = large.get(name)
        if part is not None:
            behind = model.get_submodule(norm) if norm is not None else None
            if isinstance(behind, torch.nn.BatchNorm2d):
                part = torch.nn.utils.fuse_conv_bn_eval(part, behind)
                # its other methods stay, since modules may call them
                behind.forward = functools.partial(_unchanged)  # type: ignore[method-assign]
            root.set_submodule(_below(name), _sum_of_rows(part))
    return root[0].eval()


def rows_in_parts(rows: int, most: int) -> list[range]:
    """Each row once, in parts of at most `most`, each evenly spaced around the middle."""
    left, parts = set(range(rows)), list[range]()
    while left:
        parts.append(
            next(
                part
                for count in range(min(most, len(left)), 0, -1)
                for part in _centred(rows, count)
                if left.issuperset(part)
            )
        )
        left.difference_update(parts[-1])
    return parts


def _centred(rows: int, count: int) -> Iterator[range]:
    """Evenly spaced rows, as many above the middle as below it, the closest first."""
    for step in range(1, rows):
        span = step * (count - 1)
        above, odd = divmod(rows - 1 - span, 2)
        if not odd and above >= 0:
            yield range(above, above + span + 1, step)


def _is_large(part: nn.Module) -> bool:
    import torch

    if not isinstance(part, torch.nn.Conv2d) or part.padding_mode != "zeros":
        return False
    rows, columns = part.kernel_size
    depthwise = part.groups == part.in_channels == part.out_channels
    if not depthwise or rows * columns <= _MOST_WEIGHTS or _MOST_WEIGHTS // columns < 2:
        return False
    return not isinstance(part.padding, str) and part.padding[0] >= part.dilation[0] * (rows // 2)


def _sum_of_rows(whole: nn.Conv2d) -> nn.Module:
    import torch

    rows, columns = whole.kernel_size
    parts: list[nn.Conv2d] = []
    for part in rows_in_parts(rows, _MOST_WEIGHTS // columns):
        small = torch.nn.Conv2d(
            whole.in_channels,
            whole.out_channels,
            (len(part), columns),
            (whole.stride[0], whole.stride[1]),
            (int(whole.padding[0]) - part[0] * whole.dilation[0], int(whole.padding[1])),
            (part.step * whole.dilation[0], whole.dilation[1]),
            groups=whole.groups,
            bias=whole.bias is not None and not parts,
        ).requires_grad_(False)
        small.weight.copy_(whole.weight[:, :, list(part)])
        if small.bias is not None and whole.bias is not None:
            small.bias.copy_(whole.bias)
        parts.append(small)

    class Sum(torch.nn.ModuleList):
        def forward(self, x: Tensor) -> Tensor:
            results: list[Tensor] = [part(x) for part in self]
            return functools.reduce(operator.add, results)

    return Sum(parts)


def _unchanged(x: Tensor) -> Tensor:
    return x


def _called_once(model: nn.Module, example_input: tuple[Tensor, ...]) -> dict[str, str | None]:
    """Of each convolution that is called once: the batch norm that alone takes what it gives."""
    import torch

    graph = torch.export.export(model, example_input).graph
    calls: dict[str, list[Any]] = defaultdict(list)
    for node in graph.nodes:
        if "nn_module_stack" in node.meta and node.op == "call_function":
            calls[_module_of(node)].append(node)
    found: dict[str, str | None] = {}
    for name, nodes in calls.items():
        if [node.target for node in nodes] == [torch.ops.aten.conv2d.default]:
            users = list(nodes[0].users)
            norm = _module_of(users[0]) if _is_norm(users) else None
            found[name] = norm if norm is not None and calls[norm] == users else None
    return found


def _is_norm(users: list[Any]) -> bool:
    """Whether it is all that is done with something, by statistics that were learned."""
    import torch

    is_norm = len(users) == 1 and users[0].target == torch.ops.aten.batch_norm.default
    return is_norm and not users[0].args[5]


def _module_of(node: Any) -> str:
    """The innermost module that computes it, by its name in the model."""
    path, _ = list(node.meta["nn_module_stack"].values())[-1]
    return str(path)


def _below(name: str) -> str:
    return f"0.{name}" if name else "0"
