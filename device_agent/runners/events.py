"""The lines that a runner prints, checked and typed. What comes from a device is data."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from nasdeploy.errors import CommandFailed

_LONGEST_NS = 10**15  # eleven days; what is longer is not a time
_SHOWN = 200


@dataclass(frozen=True, slots=True)
class Hello:
    runtime: str
    version: str
    threads: int
    pid: int


@dataclass(frozen=True, slots=True)
class Loaded:
    """`warmup_ms` is what all of its warm-ups took together."""

    model: str
    load_ms: float
    warmup_ms: float


@dataclass(frozen=True, slots=True)
class Sample:
    """One visit: nanoseconds of each of its timed runs; thread times are None with more threads."""

    round: int
    model: str
    wall_ns: tuple[int, ...]
    thread_ns: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Outputs:
    model: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ModelFailed:
    model: str
    message: str


@dataclass(frozen=True, slots=True)
class Bye:
    peak_rss_bytes: int


Event = Hello | Loaded | Sample | Outputs | ModelFailed | Bye


def parse_event(line: str) -> Event:
    """The event in a line; `CommandFailed` shows a line that is none."""
    try:
        return _typed(json.loads(line))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CommandFailed(
            f"The runner printed a line that is not of its protocol: {line[:_SHOWN]!r} ({error})"
        ) from error


def _typed(fields: dict[str, Any]) -> Event:
    match fields["event"]:
        case "hello":
            return Hello(
                _text(fields["runtime"]),
                _text(fields["version"]),
                _count(fields["threads"]),
                _count(fields["pid"]),
            )
        case "loaded":
            return Loaded(
                _text(fields["model"]), _duration(fields["load_ms"]), _duration(fields["warmup_ms"])
            )
        case "sample":
            wall = tuple(_count(value) for value in fields["wall_ns"])
            thread = fields["thread_ns"]
            if thread is not None:
                thread = tuple(_count(value) for value in thread)
                if len(thread) != len(wall):
                    raise ValueError("as many thread times as wall times are needed")
            return Sample(_count(fields["round"]), _text(fields["model"]), wall, thread)
        case "outputs":
            return Outputs(_text(fields["model"]), tuple(map(_text, fields["paths"])))
        case "error":
            return ModelFailed(_text(fields["model"]), _text(fields["message"]))
        case "bye":
            return Bye(_count(fields["peak_rss_bytes"]))
        case other:
            raise ValueError(f"an unknown event {other!r}")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} where a text belongs")
    return value


def _duration(value: Any) -> float:
    milliseconds = float(value)
    if not math.isfinite(milliseconds) or milliseconds < 0:
        raise ValueError(f"a time of {milliseconds} ms")
    return milliseconds


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= _LONGEST_NS:
        raise ValueError(f"{value!r} where a whole number of at least 0 belongs")
    return value
