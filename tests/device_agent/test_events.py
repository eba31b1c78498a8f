"""Lines of a runner: what comes from a device is data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nasdeploy.device_agent.runners.events import (
    Bye,
    Hello,
    Loaded,
    ModelFailed,
    Sample,
    parse_event,
)
from nasdeploy.errors import CommandFailed

GOOD = {
    '{"event":"hello","runtime":"litert","version":"2.3.0","threads":1,"pid":4711}': Hello(
        "litert", "2.3.0", 1, 4711
    ),
    '{"event":"loaded","model":"a","load_ms":3.5,"warmup_ms":2}': Loaded("a", 3.5, 2.0),
    '{"event":"sample","round":2,"model":"a","wall_ns":[5,6],"thread_ns":null}': Sample(
        2, "a", (5, 6), None
    ),
    '{"event":"error","model":"a","message":"no"}': ModelFailed("a", "no"),
    '{"event":"bye","peak_rss_bytes":123}': Bye(123),
}
SAMPLE = '{"event":"sample","round":0,"model":"a","wall_ns":%s,"thread_ns":%s}'


@pytest.mark.parametrize("line", GOOD)
def test_a_line_of_the_protocol_is_read(line: str) -> None:
    assert parse_event(line) == GOOD[line]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[]",
        "loading...",
        '{"event":"sample","round":0',
        '{"event":"who"}',
        '{"event":"bye"}',
        '{"event":"loaded","model":"a","load_ms":NaN,"warmup_ms":1}',
        '{"event":"loaded","model":"a","load_ms":1,"warmup_ms":-1}',
        '{"event":"loaded","model":"a","load_ms":1}',
        '{"event":"loaded","model":7,"load_ms":1,"warmup_ms":1}',
        SAMPLE % ("[-1]", "null"),
        SAMPLE % ("[NaN]", "null"),
        SAMPLE % ("[Infinity]", "null"),
        SAMPLE % ("[1.5]", "null"),
        SAMPLE % ("[true]", "null"),
        SAMPLE % ("[1e30]", "null"),
        SAMPLE % ("[9999999999999999999]", "null"),
        SAMPLE % ("[1,2]", "[1]"),
        SAMPLE % ("7", "null"),
        "[" * 100_000,
    ],
)
def test_any_other_line_is_refused_and_shown(line: str) -> None:
    with pytest.raises(CommandFailed, match="not of its protocol"):
        parse_event(line)


@given(st.text())
def test_no_text_breaks_the_reader(line: str) -> None:
    with pytest.raises(CommandFailed):
        parse_event(line)
