"""What was seen of one graph: an operator or a whole network."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from nasdeploy.errors import UnknownName, UsageError

STATISTICS = ("min", "p10", "median", "p90", "p95", "mean")


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What was seen of one graph. Milliseconds; None where a source does not tell.

    Attributes:
        n: Samples.
        mad_ms: Median absolute deviation.
        ci95_ms: 95 % interval of the median, from resampling whole rounds.
        var_ms2: Variance, in square milliseconds.
    """

    n: int | None = None
    min_ms: float | None = None
    p10_ms: float | None = None
    median_ms: float | None = None
    p90_ms: float | None = None
    p95_ms: float | None = None
    mad_ms: float | None = None
    ci95_ms: tuple[float, float] | None = None
    mean_ms: float | None = None
    var_ms2: float | None = None

    def value(self, statistic: str) -> float:
        """Milliseconds by one of `STATISTICS`; `UsageError` if it is not known here."""
        if statistic not in STATISTICS:
            raise UnknownName("statistic", statistic, STATISTICS)
        value: float | None = getattr(self, f"{statistic}_ms")
        if value is None:
            raise UsageError(
                f"There is no {statistic} here, only {', '.join(self.known) or 'nothing'}. "
                "Name one of those as the statistic."
            )
        return value

    @property
    def known(self) -> tuple[str, ...]:
        """The statistics that there are."""
        return tuple(name for name in STATISTICS if getattr(self, f"{name}_ms") is not None)

    def problems(self) -> Iterator[str]:
        """What cannot be true of measured times."""
        for name in (f.name for f in fields(Statistics)):
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (value,)
            if value is not None and not all(map(math.isfinite, numbers)):
                yield f"{name} is {value}"
                return
        if not self.known:
            yield "there is no statistic"
        # A quick operator may come out at zero or below after the empty graph was subtracted from
        # its fastest samples, but not from its usual ones.
        for name in ("median", "p90", "p95", "mean"):
            value = getattr(self, f"{name}_ms")
            if value is not None and value <= 0:
                yield f"{name}_ms is {value}, not positive"
        ordered = [name for name in STATISTICS if name != "mean" and name in self.known]
        for lower, upper in itertools.pairwise(ordered):
            if self.value(lower) > self.value(upper):
                yield f"{lower}_ms is above {upper}_ms"
        if self.ci95_ms is not None and self.ci95_ms[0] > self.ci95_ms[1]:
            yield f"ci95_ms runs from {self.ci95_ms[0]} down to {self.ci95_ms[1]}"
        if self.n is not None and self.n < 1:
            yield f"n is {self.n}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row(Statistics):
    """An operator.

    Attributes:
        graph: Hash of the exported graph, so that an edited block never meets an old row; None in
            a published table.
        session: Of the table's sessions, or None.
    """

    graph: str | None = None
    session: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchor:
    """A whole network, measured on the table's device.

    Attributes:
        space: Name of the space.
        deployment: ``{"input_shape": [3, 224, 224], "classes": 1000}``; plain data.
        arch: One choice index per decision.
        graph, session: As in `Row`.
    """

    space: str
    deployment: Mapping[str, Any]
    arch: tuple[int, ...]
    statistics: Statistics
    graph: str | None = None
    session: str | None = None


_S = TypeVar("_S", bound=Statistics)


def to_plain(record: Statistics) -> dict[str, Any]:
    """The columns that are known, names in a fixed order."""
    names = [f.name for f in fields(record)]
    first = [name for name in ("graph", "session") if name in names]
    ordered = first + [name for name in names if name not in first]
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name in ordered
        if (value := getattr(record, name)) is not None
    }


def from_plain(kind: type[_S], plain: Mapping[str, Any]) -> _S:
    """The reverse of `to_plain`; `TypeError` if a column is unknown or not a number."""
    for name, value in plain.items():
        numbers = value if name == "ci95_ms" else [value]
        if name not in ("graph", "session") and any(
            isinstance(number, bool) or not isinstance(number, int | float) for number in numbers
        ):
            raise TypeError(f"{name} is {value!r}, not a number")
    columns = dict(plain)
    if "ci95_ms" in columns:
        low, high = columns["ci95_ms"]
        columns["ci95_ms"] = (low, high)
    return kind(**columns)
