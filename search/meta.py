"""Modules of shapes and dtypes alone, for counting or to be given weights that exist already."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import init
from torch.overrides import TorchFunctionMode

# on the meta device each of them takes longer than a small convolution
_DRAWS = frozenset(
    {init.kaiming_uniform_, init.normal_, init.uniform_, Tensor.normal_, Tensor.uniform_}
)


class _NothingDrawn(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = kwargs or {}
        if func in _DRAWS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


@contextmanager
def without_values() -> Iterator[None]:
    """What is built in here lies on torch's meta device, and nothing random is drawn for it."""
    with _NothingDrawn(), torch.device("meta"):
        yield
