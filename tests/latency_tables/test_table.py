from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from nasdeploy.errors import BadInput, UnknownName, UsageError
from nasdeploy.latency_tables.compare import diff, merge
from nasdeploy.latency_tables.table import (
    Anchor,
    LatencyTable,
    Row,
    Statistics,
    check,
    find_table,
    read_table,
    write_table,
)

CONV = "conv_bn_relu6[kernel=3,out=8,stride=2](3x32x32)"
BLOCK = "mbconv[expand=6,kernel=3,out=8,stride=1](8x16x16)"
HEAD = "classifier[classes=10](64x4x4)"


def row(ms: float, session: str = "s1") -> Row:
    return Row(
        graph="9f2c", session=session, n=60, min_ms=ms * 0.9, p10_ms=ms * 0.95, median_ms=ms,
        p90_ms=ms * 1.1, p95_ms=ms * 1.2, mad_ms=0.01, ci95_ms=(ms * 0.99, ms * 1.01),
        mean_ms=ms * 1.05, var_ms2=0.002,
    )  # fmt: skip


TABLE = LatencyTable(
    device="local",
    fingerprint="x86_64-1234",
    device_info={"model": "a notebook", "cores": 2, "ram_bytes": None},
    runtime="litert",
    runtime_version="2.3.0",
    precision="int8",
    scheme="per-channel weights",
    threads=1,
    target="x86-64",
    condition={"cpu_mask": "0x1"},
    created="2026-01-02T03:04:05Z",
    spaces=({"name": "mobile", "input_shape": [3, 32, 32], "classes": 10},),
    sessions={"s1": {"started": "2026-01-02T03:00:00Z", "rounds": {"accepted": 30, "rejected": 2}}},
    ops={CONV: row(0.5), BLOCK: row(1e-5)},
    anchors=(
        Anchor(
            space="mobile", deployment={"input_shape": [3, 32, 32], "classes": 10}, arch=(0, 6, 2),
            statistics=Statistics(n=60, median_ms=1.25, ci95_ms=(1.2, 1.3)), graph="77aa",
            session="s1",
        ),
    ),
    fits=({"space": "mobile", "scale": 1.02, "offset_ms": -0.1},),
)  # fmt: skip


def written(path: Path, table: LatencyTable = TABLE) -> Path:
    write_table(table, path)
    return path


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_table(written(tmp_path / "t.yaml")) == TABLE


def test_the_same_table_is_the_same_file(tmp_path: Path) -> None:
    turned = replace(TABLE, ops=dict(reversed(list(TABLE.ops.items()))))
    first, second = written(tmp_path / "a.yaml"), written(tmp_path / "b.yaml", turned)
    assert first.read_bytes() == second.read_bytes()


def test_an_operator_is_one_line_so_that_a_diff_shows_which_changed(tmp_path: Path) -> None:
    before = written(tmp_path / "a.yaml").read_text().splitlines()
    changed = replace(TABLE, ops={**TABLE.ops, CONV: row(0.6)})
    after = written(tmp_path / "b.yaml", changed).read_text().splitlines()
    unlike = [line for line, other in zip(before, after, strict=True) if line != other]
    assert [line.split(":")[0].strip() for line in unlike] == ["sha256", CONV]


DAMAGE: dict[str, Callable[[str], str]] = {
    "does not match its sha256": lambda text: text.replace("0.5,", "0.4,"),
    "is not a whole table": lambda text: text[: text.index("p95_ms")],
    "damaged, cut short or edited": lambda text: text[: text.index("anchors:")],
    "is not a latency table of nasdeploy": lambda text: "Conv-input: {count: 3}\n",
    "has schema nasdeploy-latency-table/9": lambda text: text.replace("table/1", "table/9"),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_a_file_that_is_not_what_was_written_is_refused(message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "t.yaml")
    path.write_text(DAMAGE[message](path.read_text()))
    with pytest.raises(BadInput, match=message):
        read_table(path)


@pytest.mark.parametrize("content", [b"", b"\xff\x00\x12", b"- 1\n- 2\n", b"schema: 3"])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_bytes(content)
    with pytest.raises(BadInput):
        read_table(tmp_path / "t.yaml")


def test_every_cut_of_a_table_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "t.yaml").read_bytes()
    cut = tmp_path / "cut.yaml"
    for length in range(0, len(whole) - 1, 7):
        cut.write_bytes(whole[:length])
        with pytest.raises(BadInput):
            read_table(cut)


def test_python_objects_in_a_table_are_not_made(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    path.write_text("schema: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(BadInput):
        read_table(path)


PROBLEMS: dict[str, LatencyTable] = {
    "median_ms is nan": replace(TABLE, ops={CONV: replace(row(1), median_ms=math.nan)}),
    "median_ms is -1": replace(TABLE, ops={CONV: Row(median_ms=-1.0)}),
    "p10_ms is above median_ms": replace(TABLE, ops={CONV: replace(row(1), p10_ms=1.5)}),
    "ci95_ms runs from 2.0 down to 1.0": replace(
        TABLE, ops={CONV: replace(row(1), ci95_ms=(2.0, 1.0))}
    ),
    "there is no statistic": replace(TABLE, ops={CONV: Row(n=3)}),
    "n is 0": replace(TABLE, ops={CONV: Row(n=0, mean_ms=1.0)}),
    "'Conv' is not an operator key": replace(TABLE, ops={"Conv": row(1)}),
    "there is no session 's2'": replace(TABLE, ops={CONV: row(1, "s2")}),
    "anchor 0: mean_ms is inf": replace(
        TABLE, anchors=(replace(TABLE.anchors[0], statistics=Statistics(mean_ms=math.inf)),)
    ),
    "clock is 'sun'": replace(TABLE, clock="sun"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_table_that_cannot_be_right_is_not_written(problem: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=problem.replace("'", ".")):
        write_table(PROBLEMS[problem], tmp_path / "t.yaml")
    assert not (tmp_path / "t.yaml").exists()


def test_a_right_table_has_no_problems() -> None:
    check(TABLE)
    assert TABLE.problems() == []


def test_values_are_by_statistic_and_a_missing_one_says_what_there_is() -> None:
    assert TABLE.values("p95") == {CONV: 0.6, BLOCK: 1.2e-5}
    assert TABLE.default_statistic == "median"
    mean_only = replace(TABLE, ops={CONV: Row(n=9, mean_ms=1.0)})
    assert mean_only.default_statistic == "mean"
    with pytest.raises(UsageError, match="no median for every operator, only mean"):
        mean_only.values("median")
    with pytest.raises(UnknownName, match="Did you mean 'median'"):
        TABLE.values("medain")


def test_a_shipped_table_is_found_by_its_name_and_any_by_its_path(tmp_path: Path) -> None:
    assert find_table("pixel1").name == "pixel1.yaml"
    path = written(tmp_path / "t.yaml")
    assert find_table(str(path)) == path
    with pytest.raises(UnknownName, match="Did you mean 'pixel1'"):
        find_table("pixel")
    with pytest.raises(BadInput, match="no table at"):
        find_table("missing.yaml")


def test_a_merge_takes_the_newer_row_and_counts() -> None:
    later = replace(
        TABLE,
        created="2026-02-01T00:00:00Z",
        sessions={"s2": {"started": "2026-02-01T00:00:00Z"}},
        ops={CONV: row(0.7, "s2"), HEAD: row(0.1, "s2")},
        anchors=(replace(TABLE.anchors[0], session="s2"),),
    )
    merged = merge(TABLE, later)
    assert (merged.added, merged.replaced, merged.kept, merged.anchors_added) == (1, 1, 1, 1)
    assert merged.table.values("median") == {CONV: 0.7, BLOCK: 1e-5, HEAD: 0.1}
    assert set(merged.table.sessions) == {"s1", "s2"}
    assert len(merged.table.anchors) == 2
    assert merged.table.problems() == []
    turned = merge(later, TABLE)
    assert (turned.added, turned.replaced, turned.kept) == (1, 0, 2)
    assert turned.table.values("median") == merged.table.values("median")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("fingerprint", "other"), ("runtime", "executorch"), ("precision", "fp32"),
        ("threads", 4), ("clock", "thread"), ("origin", "simulated"), ("runtime_version", "3"),
    ],
)  # fmt: skip
def test_unlike_tables_are_not_merged(field: str, value: object) -> None:
    other = replace(TABLE, **{field: value})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=f"their {field} is"):
        merge(TABLE, other)


def test_published_tables_of_two_devices_are_not_merged() -> None:
    published = replace(TABLE, fingerprint=None)
    with pytest.raises(UsageError, match="their device is 'local' and 'phone'"):
        merge(published, replace(published, device="phone"))


def test_one_session_told_in_two_ways_is_not_merged() -> None:
    with pytest.raises(UsageError, match="both have a session 's1'"):
        merge(TABLE, replace(TABLE, sessions={"s1": {"started": "2026-03-01T00:00:00Z"}}))


def test_a_difference_has_ratios_and_what_only_one_has() -> None:
    other = replace(TABLE, threads=2, ops={CONV: row(1.0), HEAD: row(0.1)})
    found = diff(TABLE, other)
    assert found.ratios == {CONV: 2.0}
    assert found.geometric_mean == pytest.approx(2.0)
    assert (found.only_first, found.only_second) == ((BLOCK,), (HEAD,))
    assert found.unlike == {"threads": (1, 2)}
    assert found.statistic == "median"


def test_tables_without_a_common_statistic_have_no_difference() -> None:
    with pytest.raises(UsageError, match="no statistic in common"):
        diff(
            replace(TABLE, ops={CONV: Row(median_ms=1.0)}),
            replace(TABLE, ops={CONV: Row(mean_ms=1.0)}),
        )


def test_a_table_is_yaml_that_any_reader_reads(tmp_path: Path) -> None:
    document = yaml.safe_load(written(tmp_path / "t.yaml").read_text())
    assert document["ops"][BLOCK]["median_ms"] == 1e-5
    assert document["anchors"][0]["arch"] == [0, 6, 2]
