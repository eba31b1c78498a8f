"""A user's own space, written as a class: ``module:Class``.

The class has the members of `SearchSpace` (`search/space.py`); its `config` names itself. What it
gives is checked when it is loaded, not after an hour of measuring.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

from nasdeploy.errors import BadInput, UnknownName, UsageError
from nasdeploy.search.space import SearchSpace, check_arch

_MEMBERS = (
    "name", "deployment", "decisions", "config", "sample", "mutate", "all_ops", "cost_terms",
    "build", "supernet",
)  # fmt: skip


def is_class(name: str) -> bool:
    """Whether a space's name is that of a class."""
    return ":" in name


def load_class(name: str, parameters: Mapping[str, Any]) -> SearchSpace:
    """The space of a class; modules of the working directory are found as well.

    Raises: `UsageError` if there is no such class, `BadInput` naming file and line of one that is
        no space.
    """
    module_name, _, class_name = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"The space {name} cannot be loaded: there is no module {error.name}. Run the command "
            "in the folder where it is, or install it."
        ) from None
    made = getattr(module, class_name, None)
    if not isinstance(made, type):
        classes = [key for key, value in vars(module).items() if isinstance(value, type)]
        raise UnknownName(f"class of {module_name}", class_name, classes)
    try:
        space: SearchSpace = made(**parameters)
    except TypeError as error:
        raise BadInput(f"{_place(made)}: {error}.") from None
    check_space(space, name, _place(made))
    return space


def check_space(space: Any, name: str, place: str) -> None:
    """`BadInput` that begins with `place` if what a class made is no space."""
    missing = [member for member in _MEMBERS if not hasattr(space, member)]
    if missing:
        raise BadInput(f"{place}: a space needs {', '.join(missing)} (search/space.py).")
    labels = [decision.label for decision in space.decisions]
    if not labels or len(set(labels)) < len(labels):
        raise BadInput(f"{place}: decisions need labels of their own; there are {labels}.")
    if space.config.get("name") != name:
        raise BadInput(
            f"{place}: its config must hold name: {name!r}, so that tables and runs find it again; "
            f"it holds {space.config.get('name')!r}."
        )
    sizes = [len(decision.choices) for decision in space.decisions]
    known = {str(op.key) for op in space.all_ops()}
    for number, term in enumerate(space.cost_terms()):
        if any(not 0 <= d < len(sizes) for d in term.decisions) or term.choices != tuple(
            sizes[d] for d in term.decisions
        ):
            raise BadInput(
                f"{place}: cost term {number} looks at decisions {term.decisions} with "
                f"{term.choices} choices; the space has {sizes}."
            )
        for key in sorted(term.keys - known):
            raise BadInput(f"{place}: cost term {number} names {key}, which all_ops has not.")
    try:
        check_arch(space, space.sample(Random(0)))
    except UsageError as error:
        raise BadInput(f"{place}: what sample draws is no architecture: {error}") from None


def _place(made: type) -> str:
    """File, line and name of a class."""
    try:
        file, line = inspect.getsourcefile(made), inspect.getsourcelines(made)[1]
    except (OSError, TypeError):
        return made.__qualname__
    return f"{file}, line {line} ({made.__qualname__})"
