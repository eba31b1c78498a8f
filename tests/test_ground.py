"""Units, errors and durable files: what everything stands on."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nasdeploy.durable import Journal, read_jsonl, write_json, write_text
from nasdeploy.errors import BadInput, OutOfResources, UnknownName, UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.units import Latency, parse_bytes, parse_count, parse_latency


@pytest.mark.parametrize(
    ("text", "ms"), [("100ms", 100.0), ("0.1s", 100.0), ("250us", 0.25), (" 5 MS", 5.0)]
)
def test_a_latency_is_milliseconds_whatever_unit_it_is_written_in(text: str, ms: float) -> None:
    assert parse_latency(text).ms == pytest.approx(ms)


@pytest.mark.parametrize("text", ["100", "-5ms", "0ms", "fast", "5 m", "101%", "nanms", "1e999ms"])
def test_a_latency_without_a_unit_or_below_zero_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_latency(text)


def test_a_bare_number_is_answered_with_what_was_likely_meant() -> None:
    with pytest.raises(UsageError, match="Did you mean '100ms'"):
        parse_latency("100")


def test_a_share_lies_between_the_fastest_and_the_slowest() -> None:
    assert parse_latency("40%") == Latency(share=0.4)
    assert parse_latency("40%").resolve_ms(2.0, 12.0) == pytest.approx(6.0)


def test_counts_and_sizes_are_read_with_their_multiples() -> None:
    assert parse_count("3M") == 3_000_000
    assert parse_count("1.5G") == 1_500_000_000
    assert parse_bytes("2MiB") == 2 * 2**20
    with pytest.raises(UsageError):
        parse_bytes("2")


def test_a_misspelt_name_is_answered_with_the_likely_one() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'litert'"):
        raise UnknownName("runtime", "litrt", ["litert", "executorch"])


@pytest.mark.parametrize(
    "text",
    [
        "mbconv[expand=6,kernel=3,out=24,stride=2](16x112x112)",
        "add[](24x56x56,24x56x56)",
        "pool[kernel=3,kind=max,pad=-1](8)",
    ],
)
def test_an_operator_key_is_parsed_back_without_loss(text: str) -> None:
    assert str(OpKey.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "mbconv", "a[b](1x2", "a[b=1](1x02)", "A[](1)", "a[b=](1)", "a[c=1,b=1](1)"]
)
def test_a_text_that_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(BadInput, match="not an operator key"):
        OpKey.parse(text)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["value.json"]


def test_a_full_disk_is_named_and_nothing_half_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", no_room)
    with pytest.raises(OutOfResources, match="disk is full"):
        write_text(tmp_path / "x", "y")
    assert list(tmp_path.iterdir()) == []


def test_a_torn_last_line_is_dropped_and_the_journal_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append({"n": 0})
    with path.open("a") as file:
        file.write('{"n": 1, "x')
    assert read_jsonl(path) == [{"n": 0}]
    Journal(path).append({"n": 2})
    assert read_jsonl(path) == [{"n": 0}, {"n": 2}]


def test_a_journal_keeps_every_entry_that_was_appended_before_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    script = (
        "import sys\nfrom pathlib import Path\nfrom nasdeploy.durable import Journal\n"
        f"j = Journal(Path({str(path)!r}))\n"
        "for n in range(10**9):\n    j.append({'n': n})\n    print(n, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        seen = [int(next(run.stdout)) for _ in range(50)][-1]
        os.kill(run.pid, signal.SIGKILL)
    kept = [entry["n"] for entry in read_jsonl(path)]
    assert kept == list(range(len(kept)))
    assert len(kept) > seen
