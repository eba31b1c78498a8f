"""Two tables side by side: what one has over the other, and one table made of both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.rows import STATISTICS
from nasdeploy.latency_tables.table import LatencyTable

_SAME = (
    "fingerprint", "runtime", "runtime_version", "precision", "scheme", "threads", "clock",
    "target", "origin",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Merged:
    """A table made of two.

    Attributes:
        added: Rows that only the second had.
        replaced: Rows of the first that were older than the second's.
        kept: Rows of the first that are in it.
        anchors_added: Networks that only the second had.
    """

    table: LatencyTable
    added: int
    replaced: int
    kept: int
    anchors_added: int


@dataclass(frozen=True, slots=True)
class Difference:
    """How a second table differs from a first.

    Attributes:
        unlike: Fields of the header that differ, with both values; where there are any, the times
            are of different things.
        statistic: What was compared.
        ratios: Second by first, for the rows that both have.
        geometric_mean: Of the ratios; None if there are none.
    """

    unlike: Mapping[str, tuple[Any, Any]]
    statistic: str
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    ratios: Mapping[str, float]
    geometric_mean: float | None


def merge(first: LatencyTable, second: LatencyTable) -> Merged:
    """The rows and anchors of both; of two rows for one operator the newer one.

    A row is as old as the start of its session, or else as its table; times are compared as text,
    so that they must all be ISO 8601 in UTC. Fits are left out: they were made of fewer anchors.

    Raises: `UsageError` naming the first field of the headers that differs, or a session that the
        two tables tell differently.
    """
    unlike = _unlike(first, second)
    if first.fingerprint is None and first.device != second.device:
        unlike = {"device": (first.device, second.device), **unlike}
    for name, (one, other) in unlike.items():
        raise UsageError(
            f"The tables {first} and {second} cannot be merged: their {name} is {one!r} and "
            f"{other!r}. Look at both: nasdeploy table diff"
        )
    for name in first.sessions.keys() & second.sessions.keys():
        if first.sessions[name] != second.sessions[name]:
            raise UsageError(
                f"The tables cannot be merged: both have a session {name!r}, and tell of it "
                "differently. Measure one of them again: nasdeploy profile"
            )
    rows = dict(first.ops)
    added = replaced = 0
    for key, row in second.ops.items():
        if key not in first.ops:
            added += 1
        elif _started(second, row.session) > _started(first, first.ops[key].session):
            replaced += 1
        else:
            continue
        rows[key] = row
    anchors = [anchor for anchor in second.anchors if anchor not in first.anchors]
    table = replace(
        first,
        created=max(filter(None, (first.created, second.created)), default=None),
        spaces=first.spaces + tuple(s for s in second.spaces if s not in first.spaces),
        sessions={**first.sessions, **second.sessions},
        ops=rows,
        anchors=first.anchors + tuple(anchors),
        fits=(),
    )
    return Merged(table, added, replaced, len(first.ops) - replaced, len(anchors))


def diff(first: LatencyTable, second: LatencyTable, *, statistic: str | None = None) -> Difference:
    """Compare by `statistic`, or else the median, or else what both have.

    Raises: `UsageError` if the tables have no statistic in common, or if a time is not positive.
    """
    if statistic is None:
        common = [s for s in STATISTICS if s in first.statistics and s in second.statistics]
        if not common:
            raise UsageError(f"The tables {first} and {second} have no statistic in common.")
        statistic = "median" if "median" in common else common[-1]
    one, other = first.values(statistic), second.values(statistic)
    for key in sorted(one.keys() & other.keys()):
        if one[key] <= 0 or other[key] <= 0:
            raise UsageError(
                f"{key} took no time by its {statistic} once the empty graph was subtracted, so "
                "there is no ratio. Compare by the median."
            )
    ratios = {key: other[key] / one[key] for key in sorted(one.keys() & other.keys())}
    logs = [math.log(ratio) for ratio in ratios.values()]
    return Difference(
        unlike=_unlike(first, second),
        statistic=statistic,
        only_first=tuple(sorted(one.keys() - other.keys())),
        only_second=tuple(sorted(other.keys() - one.keys())),
        ratios=ratios,
        geometric_mean=math.exp(math.fsum(logs) / len(logs)) if logs else None,
    )


def _unlike(first: LatencyTable, second: LatencyTable) -> dict[str, tuple[Any, Any]]:
    pairs = {name: (getattr(first, name), getattr(second, name)) for name in _SAME}
    return {name: (one, other) for name, (one, other) in pairs.items() if one != other}


def _started(table: LatencyTable, session: str | None) -> str:
    known = table.sessions.get(session, {}) if session is not None else {}
    return str(known.get("started") or table.created or "")
