"""A latency table: what the operators of search spaces take on one device, in one YAML file.

The header says on what (device, runtime, precision, threads) and how (clock, origin) was measured;
`sessions` under which conditions; `ops` holds a row per operator, `anchors` whole networks measured
on the same device, `fits` what was made of them when the table was written. docs/latency_tables.md
describes every field. A sha256 over the content is checked on reading.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from nasdeploy import durable
from nasdeploy.errors import BadInput, UnknownName, UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.latency_tables.rows import STATISTICS, Anchor, Row, Statistics, from_plain, to_plain

__all__ = [
    "STATISTICS",
    "Anchor",
    "LatencyTable",
    "Row",
    "Statistics",
    "check",
    "find_table",
    "read_table",
    "write_table",
]

SCHEMA = "nasdeploy-latency-table/1"
DATA = Path(__file__).parent / "data"

Clock = Literal["wall", "thread"]
Origin = Literal["measured", "published", "simulated", "emulated"]

# Pure Python reads a table of 100 rows in a quarter of a second, libyaml in a fiftieth.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BaseDumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """Operator latencies on one device, runtime, precision and number of threads.

    Attributes:
        device: How the user calls it.
        fingerprint: Equal for the same device with the same system; None in a published table.
        device_info: What the device says of itself: model, system and so on; plain data.
        scheme: How it was quantised; ``"none"`` for fp32.
        threads: None where a source does not tell.
        clock: ``"wall"`` or ``"thread"`` (CPU time of the calling thread).
        target: What the files were exported for: ``"arm64"``, ``"x86-64"``.
        condition: What was asked of the device: CPU mask, governor and so on.
        source, licence: Of a published table.
        created: ISO 8601 with a time zone.
        spaces: From which spaces are made again; ``name``, ``input_shape``, ``classes``, ...
        sessions: What was true while one series of rounds was measured.
        fits: For readers of the file; estimates are fitted anew from the anchors.
    """

    device: str
    runtime: str
    precision: str
    clock: Clock = "wall"
    origin: Origin = "measured"
    fingerprint: str | None = None
    device_info: Mapping[str, Any] = field(default_factory=dict)
    runtime_version: str | None = None
    scheme: str = "none"
    threads: int | None = None
    target: str | None = None
    condition: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None
    licence: str | None = None
    created: str | None = None
    spaces: tuple[Mapping[str, Any], ...] = ()
    sessions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ops: Mapping[str, Row] = field(default_factory=dict)
    anchors: tuple[Anchor, ...] = ()
    fits: tuple[Mapping[str, Any], ...] = ()

    def __str__(self) -> str:
        threads = f"{self.threads} threads" if self.threads != 1 else "1 thread"
        how = [self.runtime, self.precision, threads if self.threads else "threads unknown"]
        return f"{self.device} ({', '.join(how)}, {self.clock} clock)"

    @property
    def statistics(self) -> tuple[str, ...]:
        """The statistics that every row has."""
        rows = self.ops.values()
        return tuple(name for name in STATISTICS if rows and all(name in r.known for r in rows))

    @property
    def default_statistic(self) -> str:
        """The median, or what a table without medians has."""
        if not self.statistics:
            raise UsageError(f"The rows of the table {self} have no statistic in common.")
        return "median" if "median" in self.statistics else self.statistics[-1]

    def values(self, statistic: str) -> dict[str, float]:
        """Milliseconds by operator key; `UsageError` if a row does not have the statistic."""
        if statistic not in STATISTICS:
            raise UnknownName("statistic", statistic, STATISTICS)
        if self.ops and statistic not in self.statistics:
            raise UsageError(
                f"The table {self} has no {statistic} for every operator, only "
                f"{', '.join(self.statistics) or 'nothing'}. Name one of those as the statistic."
            )
        return {key: row.value(statistic) for key, row in self.ops.items()}

    @property
    def graphs(self) -> dict[str, str | None]:
        """Hash of the exported graph by operator key."""
        return {key: row.graph for key, row in self.ops.items()}

    def problems(self) -> list[str]:
        """Everything that is wrong with the content, one line each."""
        found: list[str] = []
        for name, allowed in (("clock", get_args(Clock)), ("origin", get_args(Origin))):
            if getattr(self, name) not in allowed:
                found.append(f"{name} is {getattr(self, name)!r}, not one of {', '.join(allowed)}")
        for key, row in self.ops.items():
            try:
                OpKey.parse(key)
            except BadInput as error:
                found.append(str(error))
            found += [f"{key}: {problem}" for problem in row.problems()]
            if row.session is not None and row.session not in self.sessions:
                found.append(f"{key}: there is no session {row.session!r}")
        for number, anchor in enumerate(self.anchors):
            found += [f"anchor {number}: {problem}" for problem in anchor.statistics.problems()]
        return found


def check(table: LatencyTable) -> None:
    """`BadInput` with the first of the table's problems, if there is one."""
    problems = table.problems()
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise BadInput(f"The table {table} cannot be right: {problems[0]}{more}. Measure it again.")


def find_table(name_or_path: str) -> Path:
    """Where a table lies: a file, or one that is shipped, by its name."""
    path = Path(name_or_path)
    if path.is_file():
        return path
    shipped = {file.stem: file for file in DATA.glob("*.yaml")}
    if name_or_path in shipped:
        return shipped[name_or_path]
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        raise BadInput(f"There is no table at {path}. Make one: nasdeploy profile")
    raise UnknownName("table", name_or_path, shipped)


def write_table(table: LatencyTable, path: Path) -> None:
    """Write the table, whole or not at all; `BadInput` if it has problems."""
    check(table)
    document = _to_document(table)
    document = {"schema": SCHEMA, "sha256": _content_hash(document), **document}
    for name in ("spaces", "anchors", "fits"):
        if name in document:
            document[name] = [_Line(entry) for entry in document[name]]
    document["ops"] = {key: _Line(row) for key, row in document["ops"].items()}
    text = yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=10**6, allow_unicode=True)
    durable.write_text(path, text)


def read_table(path: Path) -> LatencyTable:
    """Read a table that `write_table` wrote.

    Raises: `BadInput` if it is damaged, cut short, of another kind or of another schema.
    """
    try:
        document = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    except OSError as error:
        raise BadInput(f"The table {path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = f" (line {mark.line + 1})" if (mark := getattr(error, "problem_mark", None)) else ""
        raise BadInput(
            f"{path} is not a whole table{where}. Restore it, or measure it: nasdeploy profile"
        ) from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if not str(schema).startswith(SCHEMA.partition("/")[0]):
        raise BadInput(
            f"{path} is not a latency table of nasdeploy. Another project's may be imported: "
            f"nasdeploy table import {path}"
        )
    if schema != SCHEMA:
        raise BadInput(
            f"{path} has schema {schema}, and this version of nasdeploy reads {SCHEMA}. "
            "Use the version that wrote it, or measure it again: nasdeploy profile"
        )
    content = {name: value for name, value in document.items() if name not in ("schema", "sha256")}
    if document.get("sha256") != _content_hash(content):
        raise BadInput(
            f"{path} was damaged, cut short or edited: its content does not match its sha256. "
            "Restore it, or measure it again: nasdeploy profile"
        )
    try:
        table = _from_document(content)
        check(table)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInput(f"{path} is not laid out as a latency table: {error}.") from error
    return table


class _Line(dict[str, Any]):
    """A mapping that is written on one line."""


class _Dumper(_BaseDumper):  # type: ignore[misc]
    pass


_Dumper.add_representer(
    _Line,
    lambda dumper, line: dumper.represent_mapping(
        "tag:yaml.org,2002:map", line.items(), flow_style=True
    ),
)
# Plain data may be shared between entries; anchors and aliases would make a diff hard to read.
_Dumper.ignore_aliases = lambda dumper, data: True

_HEADER = [
    f
    for f in fields(LatencyTable)
    if f.name not in ("spaces", "sessions", "ops", "anchors", "fits")
]


def _to_document(table: LatencyTable) -> dict[str, Any]:
    header = {f.name: _plain(getattr(table, f.name)) for f in _HEADER}
    document: dict[str, Any] = {
        "header": {name: value for name, value in header.items() if value not in (None, {})},
        "spaces": [_plain(space) for space in table.spaces],
        "sessions": _plain(table.sessions),
        "ops": {key: to_plain(table.ops[key]) for key in sorted(table.ops)},
        "anchors": [
            {
                "space": anchor.space,
                "deployment": _plain(anchor.deployment),
                "arch": list(anchor.arch),
                **{n: v for n in ("graph", "session") if (v := getattr(anchor, n)) is not None},
                "statistics": to_plain(anchor.statistics),
            }
            for anchor in table.anchors
        ],
        "fits": [_plain(fit) for fit in table.fits],
    }
    return {name: value for name, value in document.items() if value or name == "ops"}


def _from_document(document: Mapping[str, Any]) -> LatencyTable:
    header = dict(document["header"])
    needed = {f.name for f in _HEADER if f.default is MISSING and f.default_factory is MISSING}
    if needed - set(header):
        raise KeyError(f"the header lacks {', '.join(sorted(needed - set(header)))}")
    return LatencyTable(
        **header,
        spaces=tuple(document.get("spaces", ())),
        sessions=document.get("sessions", {}),
        ops={key: from_plain(Row, row) for key, row in document["ops"].items()},
        anchors=tuple(
            Anchor(
                **{
                    **anchor,
                    "arch": tuple(anchor["arch"]),
                    "statistics": from_plain(Statistics, anchor["statistics"]),
                }
            )
            for anchor in document.get("anchors", ())
        ),
        fits=tuple(document.get("fits", ())),
    )


def _plain(value: Any) -> Any:
    """Lists and dictionaries with sorted names, as YAML reads them back."""
    if isinstance(value, Mapping):
        return {name: _plain(value[name]) for name in sorted(value)}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value


def _content_hash(document: Mapping[str, Any]) -> str:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()
