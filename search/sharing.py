"""What several edges compute of the same features is computed once in a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import Tensor

_Results = dict[tuple[int, Hashable], tuple[Tensor, Tensor]]
_results: ContextVar[_Results | None] = ContextVar("shared results", default=None)


@contextmanager
def sharing() -> Iterator[None]:
    """Within it, `shared` remembers."""
    token = _results.set({})
    try:
        yield
    finally:
        _results.reset(token)


def shared(x: Tensor, what: Hashable, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """``compute(x)``, once for each `x` and `what` in a forward pass.

    Args:
        what: The same for all that compute the same, whatever their parameters: so not for modules
            that have any.
    """
    known = _results.get()
    if known is None:
        return compute(x)
    key = id(x), what
    if key not in known:
        known[key] = x, compute(x)  # x is kept, so that no other tensor gets its id meanwhile
    return known[key][1]
