"""The commands that only look: their results in every format, and what they say comes next."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from small_run import Cli, of_this_machine, write_small_table

LOOKING: dict[str, tuple[str, ...]] = {
    "devices": ("devices",),
    "space list": ("space", "list"),
    "space show": ("space", "show", "mobile-small"),
    "space range": ("space", "range", "mobile-small", "--table", "table.yaml"),
    "table show": ("table", "show", "table.yaml"),
    "table check": ("table", "check", "table.yaml"),
    "table diff": ("table", "diff", "table.yaml", "own.yaml"),
}


@pytest.fixture(autouse=True)
def tables(folder: Path) -> None:
    write_small_table(folder / "table.yaml")
    write_small_table(folder / "own.yaml", **of_this_machine())


@pytest.mark.parametrize("command", LOOKING)
def test_a_result_is_the_same_in_every_format(command: str, cli: Cli) -> None:
    arguments = LOOKING[command]
    as_json, as_yaml = (cli(*arguments, "--format", name) for name in ("json", "yaml"))
    assert (as_json.code, as_yaml.code) == (0, 0), as_json.err
    assert json.loads(as_json.out) == yaml.safe_load(as_yaml.out)
    assert as_json.err.splitlines()[-1].startswith("Next: nasdeploy ")
    assert cli(*arguments).out.strip()


def test_a_table_of_the_published_format_is_imported(cli: Cli, folder: Path) -> None:
    source = {
        "Conv_0-input:224x224x3-output:112x112x32": {"count": 3, "mean": 8.5, "var": 0.01}
    }  # fmt: skip
    (folder / "theirs.yaml").write_text(yaml.safe_dump(source))
    ended = cli("table", "import", "theirs.yaml", "--device", "phone", "--into", "phone.yaml")
    assert ended.code in (0, 2), ended.err
    if ended.code == 0:
        assert cli("table", "check", "phone.yaml").code == 0


def test_tables_of_one_device_are_merged(cli: Cli, folder: Path) -> None:
    write_small_table(folder / "second.yaml", **of_this_machine())
    ended = cli("table", "merge", "own.yaml", "second.yaml", "--into", "both.yaml")
    assert ended.code == 0, ended.err
    assert ended.err.splitlines()[-2] == "Wrote both.yaml"
    assert cli("table", "check", "both.yaml").code == 0


@pytest.mark.slow
def test_the_doctor_looks_at_runtimes_disk_and_memory(cli: Cli) -> None:
    ended = cli("doctor", "--format", "json")
    checks = {row["check"]: row["found"] for row in json.loads(ended.out)}
    assert {"runtime litert", "load", "governor", "disk of the cache", "memory"} <= set(checks)
    runtimes = {found for check, found in checks.items() if check.startswith("runtime ")}
    assert ended.code == (2 if runtimes == {"missing"} else 0)
