from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from mobile_terms import Mobile

from nasdeploy.errors import BadInput, UsageError
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.latency_tables.proxylessnas_format import (
    entry_name,
    op_key,
    read_proxylessnas,
    write_proxylessnas,
)
from nasdeploy.latency_tables.rows import Row
from nasdeploy.latency_tables.table import LatencyTable, find_table, read_table

ORIGINAL = Path(__file__).parent / "data" / "proxylessnas_pixel1.yaml"

NAMES = {
    "Conv-input:224x224x3-output:112x112x32": "conv_bn_relu6[kernel=3,out=32,stride=2](3x224x224)",
    "Conv_1-input:7x7x320-output:7x7x1280": "conv_bn_relu6[kernel=1,out=1280,stride=1](320x7x7)",
    "Logits-input:7x7x1280-output:1000": "classifier[classes=1000](1280x7x7)",
    "expanded_conv-input:112x112x16-output:56x56x24-expand:6-kernel:3-stride:2-idskip:0": (
        "mbconv[expand=6,kernel=3,out=24,stride=2](16x112x112)"
    ),
    "expanded_conv-input:7x7x192-output:7x7x192-expand:3-kernel:7-stride:1-idskip:1": (
        "mbconv[expand=3,kernel=7,out=192,stride=1](192x7x7)"
    ),
}


@pytest.fixture(scope="module")
def original() -> LatencyTable:
    return read_proxylessnas(ORIGINAL, device="pixel1")


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_is_our_operator_and_the_other_way_round(name: str) -> None:
    assert str(op_key(name)) == NAMES[name]
    assert entry_name(OpKey.parse(NAMES[name])) == name


def test_a_table_is_written_back_byte_for_byte(original: LatencyTable, tmp_path: Path) -> None:
    write_proxylessnas(original, tmp_path / "back.yaml")
    assert (tmp_path / "back.yaml").read_bytes() == ORIGINAL.read_bytes()


def test_the_shipped_table_is_the_published_one(original: LatencyTable) -> None:
    shipped = read_table(find_table("pixel1"))
    assert shipped.ops == original.ops
    assert len(shipped.ops) == 72
    assert shipped.spaces == original.spaces
    assert shipped.spaces[0]["input_shape"] == [3, 224, 224]
    assert (shipped.origin, shipped.licence, shipped.anchors) == ("published", "MIT", ())


def test_every_operator_of_mobile_has_its_row(original: LatencyTable, mobile: Mobile) -> None:
    needed = {key for term in mobile.terms for keys in term.op_keys for key in keys}
    assert needed == set(original.ops)


WRONG = {
    "Conv-input:224x224x3": "is not the name of an entry",
    "Pool-input:7x7x3-output:1x1x3": "is not the name of an entry",
    "Conv-input:224x224x3-output:100x100x32": "its stride does not lead to",
    "expanded_conv-input:7x7x192-output:7x7x192-expand:3-kernel:7-stride:1-idskip:0": "idskip:0",
    "expanded_conv-input:7x7x192-output:7x7x320-expand:3-kernel:7-stride:1-idskip:1": "idskip:1",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_name_that_says_something_else_is_refused(name: str) -> None:
    with pytest.raises(BadInput, match=WRONG[name]):
        op_key(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("- 1", "it has no entries"),
        ("a: [", "is not YAML"),
        ("Logits-input:7x7x1280-output:1000: {count: 3, mean: 1.0}", "count, a mean and a var"),
        ("Logits-input:7x7x1280-output:1000: {count: 3, mean: .nan, var: 0}", "mean_ms is nan"),
    ],
)
def test_a_file_of_another_kind_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(content)
    with pytest.raises(BadInput, match=message):
        read_proxylessnas(tmp_path / "t.yaml", device="phone")


def test_what_the_format_cannot_hold_is_not_written(original: LatencyTable, tmp_path: Path) -> None:
    for ops, message in (
        ({"add[](8x4x4,8x4x4)": Row(n=1, mean_ms=1.0, var_ms2=0.0)}, "no name for the operator"),
        ({"classifier[classes=10](64x4x4)": Row(median_ms=1.0)}, "lacks n, mean or variance"),
    ):
        with pytest.raises(UsageError, match=message):
            write_proxylessnas(replace(original, ops=ops), tmp_path / "t.yaml")
