"""What a run measured on the device, as a table of anchors that another table can take over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nasdeploy.durable import read_jsonl
from nasdeploy.errors import BadInput, UsageError
from nasdeploy.latency_tables.rows import Anchor, Statistics, from_plain
from nasdeploy.latency_tables.table import LatencyTable
from nasdeploy.pipeline.config import read_config
from nasdeploy.pipeline.estimating import OpenedTable, space_on_table
from nasdeploy.pipeline.run_folder import RunFolder, digest
from nasdeploy.pipeline.stages.files import NETWORK_PREFIX
from nasdeploy.search.space import Arch, SearchSpace, check_arch


def run_table(folder: RunFolder, opened: OpenedTable) -> LatencyTable:
    """The networks that a run measured, as anchors under the header of the table it belongs to.

    Only what was measured as that table was: on the same device, with the same runtime, precision
    and threads. A network that was measured several times counts by its last measurement.

    Raises: `UsageError` where there is none such, `BadInput` where the journal cannot be read.
    """
    table = opened.table
    wanted = {
        "device": table.fingerprint,
        "runtime": table.runtime,
        "precision": table.precision,
        "threads": table.threads,
    }
    space = _space_of(folder, opened)
    found: dict[Arch, Anchor] = {}
    sessions: dict[str, Mapping[str, Any]] = {}
    for entry in read_jsonl(folder.measurements_path):
        try:
            if not entry["name"].startswith(NETWORK_PREFIX):
                continue
            if any(entry[field] != value for field, value in wanted.items()):
                continue
            anchor, record = _anchor(entry, space)
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{folder.measurements_path} has an entry that is no measurement: {error!r}."
            ) from error
        found.pop(anchor.arch, None)
        found[anchor.arch] = anchor
        sessions[str(anchor.session)] = record
    if not found:
        raise UsageError(
            f"{folder.path} measured no network of {space.name} that {opened.name} could take "
            f"over: it is of {table.device} ({table.runtime}, {table.precision}, "
            f"{table.threads} threads)."
        )
    anchors = tuple(found.values())
    used = {str(anchor.session) for anchor in anchors}
    return replace(
        table,
        created=None,
        ops={},
        anchors=anchors,
        sessions={name: record for name, record in sessions.items() if name in used},
        fits=(),
    )


def _space_of(folder: RunFolder, opened: OpenedTable) -> SearchSpace:
    config = read_config(folder.config_path)
    return space_on_table({"name": config.space_name, **config.space_parameters}, opened)


def _anchor(entry: Mapping[str, Any], space: SearchSpace) -> tuple[Anchor, Mapping[str, Any]]:
    arch = tuple(int(part) for part in entry["name"].removeprefix(NETWORK_PREFIX).split("."))
    check_arch(space, arch)
    record = {
        "started": entry["measured"],
        "n": entry["n"],
        "starts": entry["starts"],
        "runner": entry["runner"],
        "file_sha256": entry["file_sha256"],
    }
    session = f"run-{digest([entry['name'], record])[:8]}"
    return (
        Anchor(
            space=space.name,
            deployment={name: value for name, value in space.config.items() if name != "name"},
            arch=arch,
            statistics=from_plain(Statistics, dict(entry["statistics"])),
            session=session,
        ),
        record,
    )
