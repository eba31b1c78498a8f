"""What searchers and the evaluator share: names as people write them, a console, processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nasdeploy.pipeline.console import Console

SHIPPED_DATASET = "fashion-mnist-mini"


def space_of(search_space: str, parameters: Mapping[str, Any] | None) -> dict[str, Any]:
    """``"darts_space"``, or ``"darts"``, and what is changed in it, as a configuration names it."""
    name = search_space.removesuffix("_space").replace("_", "-")
    return {"name": name, **(parameters or {})}


def console_of(quiet: bool) -> Console:
    from nasdeploy.pipeline.console import Console

    return Console(quiet=quiet)


@contextmanager
def script_runs_once() -> Iterator[None]:
    """Processes that start in here do not import the caller's script again.

    multiprocessing would run it once more in each of them, where its calls are not kept back by
    ``if __name__ == "__main__"``. Nothing that is handed to them is defined there.
    """
    main = sys.modules["__main__"]
    kept: dict[str, Any] = {
        name: vars(main)[name] for name in ("__file__", "__spec__") if name in vars(main)
    }
    for name in kept:
        delattr(main, name)
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(kept)
