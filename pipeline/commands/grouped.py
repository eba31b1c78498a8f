"""Options that belong together, as one argument of a command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, get_type_hints


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command with dataclasses among its arguments, as typer has to see it: field by field.

    Every field of such a dataclass is an option with a default.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {n: h for n, h in hints.items() if is_dataclass(h)}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(command).parameters.values():
        if parameter.name not in groups:
            parameters.append(parameter.replace(annotation=hints[parameter.name]))
            continue
        group = groups[parameter.name]
        of_fields = get_type_hints(group, include_extras=True)
        for field in fields(group):
            parameters.append(
                parameter.replace(
                    name=field.name, default=field.default, annotation=of_fields[field.name]
                )
            )

    @functools.wraps(command)
    def flat(**options: Any) -> None:
        gathered = {
            name: group(**{field.name: options.pop(field.name) for field in fields(group)})
            for name, group in groups.items()
        }
        command(**options, **gathered)

    by_keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    flat.__signature__ = inspect.Signature(by_keyword)  # type: ignore[attr-defined]
    flat.__annotations__ = {p.name: p.annotation for p in parameters}
    return flat
