"""How many files are pushed at once, and what a device says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from nasdeploy.device_agent.device import Finished
from nasdeploy.device_agent.pushing import Copy, batches, copy_of, why_not_placed

MIB = 1 << 20


def copies(*sizes: int) -> list[Copy]:
    return [Copy(Path(f"{i}"), f"{i}", "0", size, "644") for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([1, 2, 3], [3]),
        ([1] * 200, [80, 80, 40]),
        ([20 * MIB, 20 * MIB, 5 * MIB, 40 * MIB, 1], [1, 2, 1, 1]),
    ],
)
def test_a_batch_is_bounded_in_files_and_bytes(sizes: list[int], expected: list[int]) -> None:
    files = copies(*sizes)
    found = list(batches(files))
    assert [len(batch) for batch in found] == expected
    assert [copy for batch in found for copy in batch] == files


def test_a_file_is_there_when_size_and_content_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    copy = copy_of(tmp_path / "x", "x")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, B.1
    assert copy.is_what(f"file 3 {digest}")
    assert not copy.is_what(f"file 4 {digest}")
    assert not copy.is_what("absent")


@pytest.mark.parametrize(
    ("stdout", "stderr", "reason"),
    [
        ("placed\nplaced\n", "", None),
        ("placed\nsha256 abc\n", "", "1: what was sent has another sha256"),
        ("placed\n", "mv: No space left on device\n", "1; it says: mv: No space left"),
        ("", "", "0; it says: nothing"),
        ("placed\nplaced\nplaced\n", "", "1; it says: placed"),
    ],
)
def test_the_first_file_that_was_not_placed_is_named(
    stdout: str, stderr: str, reason: str | None
) -> None:
    said = why_not_placed(copies(1, 1), Finished(("sh",), 0, stdout, stderr, 0.1))
    assert said is None if reason is None else said is not None and said.startswith(reason)
