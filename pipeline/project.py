"""Where things are kept, and what a command takes when it is not told.

A folder with a ``nasdeploy.yaml`` is a project: its fields are a run's (pipeline/config.py), and a
command's options override them. Tables are written to ``tables/``, runs to ``runs/``; exported
operators are cached for all projects of a user, since they depend on nothing of the project.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nasdeploy.errors import BadInput, UsageError
from nasdeploy.pipeline.config import RunConfig, make_config, read_yaml

PROJECT_FILE = Path("nasdeploy.yaml")
TABLES = Path("tables")


def project_values() -> dict[str, Any]:
    """The project's own configuration; empty where there is none."""
    if not PROJECT_FILE.exists():
        return {}
    values = read_yaml(PROJECT_FILE)
    if not isinstance(values, dict):
        raise BadInput(f"{PROJECT_FILE}: a project's configuration is a mapping.")
    return values


def merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`, section by section; None means not given."""
    result = dict(base)
    for key, value in over.items():
        if value is None:
            continue
        if isinstance(value, Mapping) and isinstance(result.get(key), Mapping):
            result[key] = merged(result[key], value)
        else:
            result[key] = merged({}, value) if isinstance(value, Mapping) else value
    return result


def config_from(options: Mapping[str, Any], *, needs_data: bool = True) -> RunConfig:
    """The project's configuration with a command's options on top.

    Parameters of the project's space go with it: another space starts from its own.
    """
    base, asked = project_values(), options.get("space")
    if isinstance(base.get("space"), str):
        base["space"] = {"name": base["space"]}
    if isinstance(asked, Mapping) and isinstance(base.get("space"), Mapping):
        name = base["space"].get("name")
        if asked.get("name", name) != name:
            del base["space"]
    values = merged(base, options)
    if "data" not in values:
        if needs_data:
            raise UsageError(
                f"No data: give --data (fashion-mnist-mini, folder:PATH, FILE.npz, ...), or write "
                f"'data: ...' into {PROJECT_FILE}."
            )
        values["data"] = "none"
    return make_config(values, source=str(PROJECT_FILE) if PROJECT_FILE.exists() else "options")


def table_path(config: RunConfig, input_shape: tuple[int, int, int]) -> Path:
    """Where `profile` writes: one file per device, runtime, precision, threads, space and shape."""
    shape = "x".join(map(str, input_shape))
    kind = _kind(config.device, config.runtime, config.precision, config.threads)
    return TABLES / f"{kind}-{config.space_name}-{shape}.yaml"


def newest_table(
    device: str,
    runtime: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> Path:
    """The table of `device` that was written last; what a bare `search` takes.

    Runtime, precision and threads narrow the choice where they are given.
    """
    kind = _kind(glob.escape(device), runtime or "*", precision or "*", threads or "*")
    found = sorted(TABLES.glob(f"{kind}-*.yaml"), key=lambda path: path.stat().st_mtime)
    if not found:
        asked = " ".join(
            f"--{name} {value}"
            for name, value in (
                ("runtime", runtime), ("precision", precision), ("threads", threads)
            )
            if value is not None
        )  # fmt: skip
        raise UsageError(
            f"There is no table of device {device!r}{f' ({asked})' if asked else ''} in {TABLES}/. "
            f"Measure one: nasdeploy profile --device {device}{f' {asked}' if asked else ''}; or "
            "take a published one: --table pixel1."
        )
    return found[-1]


def _kind(device: str, runtime: str, precision: str, threads: int | str) -> str:
    """How a table's file name begins."""
    parts = "-".join((device, runtime, precision, f"t{threads}"))
    return parts.replace("/", "_").replace(":", "_")
