"""A user's own space in a YAML file; errors name the file and the line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from nasdeploy.errors import BadInput
from nasdeploy.pipeline.config import read_yaml

SUFFIXES = (".yaml", ".yml")


def is_file(name: str) -> bool:
    """Whether a space's name is that of a file."""
    return name.endswith(SUFFIXES)


def resolved(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """A space's configuration, read from its file where its name is one; what is given overrides.

    Raises: `UsageError` if there is no such file, `BadInput` naming the line that makes no space.
    """
    name = str(wanted.get("name", ""))
    if not is_file(name):
        return dict(wanted)
    from nasdeploy.search.spaces import make_space
    from nasdeploy.search.spaces.custom import KIND, Misfit

    path = Path(name)
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise BadInput(f"{path}: a space is a mapping, such as examples/spaces/tiny.yaml.")
    config = {"kind": KIND, "name": path.stem, **values}
    try:
        make_space(config)
    except Misfit as error:
        line = _line(path, error.place)
        raise BadInput(f"{path}, line {line}: {error.reason}") from None
    return {**config, **{key: value for key, value in wanted.items() if key != "name"}}


def _line(path: Path, place: tuple[str | int, ...]) -> int:
    """Where a part of the data stands, as near as the file goes."""
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    line = 0
    for step in place:
        inner = _inside(node, step)
        if inner is None:
            break
        line, node = inner
    return line + 1


def _inside(node: Any, step: str | int) -> tuple[int, Any] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(step):
                return key.start_mark.line, value
    elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        inner = node.value[step]
        return inner.start_mark.line, inner
    return None
