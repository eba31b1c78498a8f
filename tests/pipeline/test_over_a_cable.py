"""From a space to a verified file over real daemons, through the commands that a user gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_run import SPACE, Cli, Ended, small_space
from targets.board import VirtualBoard
from targets.daemons import Adbd, AdbServer, Sshd, need

from nasdeploy.device_agent.adb import list_attached
from nasdeploy.latency_tables.table import LatencyTable, read_table
from nasdeploy.search.spaces import make_space

pytestmark = pytest.mark.slow

WAYS: dict[str, tuple[str, Callable[[Any], str]]] = {
    "adb": ("board", lambda box: f"adb:{box.serial}"),
    "adb with a key": ("phone", lambda box: f"adb:{box.serial}"),
    "adb+tcp": ("board", lambda box: f"adb+tcp:{box.serial}"),
    "adb+tcp with a key": ("phone", lambda box: f"adb+tcp:{box.serial}"),
    "ssh": ("ssh_user", lambda box: f"ssh:pi@127.0.0.1:{box.port}"),
}
"""The fixture at whose end the device is, and its address."""

PROJECT: dict[str, Any] = {
    "data": "images.npz",
    "runtime": "onnxruntime",
    "precision": "fp32",
    "space": {**SPACE, "input_shape": [1, 28, 28], "classes": 10},
    "profile": {"min_samples": 10, "min_duration_s": 0.1, "anchors": 3, "workers": 1},
    "verify": {"min_samples": 10, "min_duration_s": 0.1, "wait_s": 2},
}
WINNER = "runs/tiny/winner/winner-onnxruntime-fp32.onnx"


@pytest.fixture
def cabled(
    cli: Cli, adb_user: AdbServer, finished: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Cli:
    """The command line for one who has an adb server, in a project with a finished run."""
    monkeypatch.setattr("nasdeploy.device_agent.adb.list_attached", list_attached)
    shutil.copytree(finished / "runs", folder / "runs")
    shutil.copy(finished / "tiny.npz", folder / "images.npz")
    (folder / "nasdeploy.yaml").write_text(yaml.safe_dump(PROJECT))
    return cli


def name_it(address: str, **entry: Any) -> None:
    """Call the device at an address `board`."""
    Path("devices.yaml").write_text(yaml.safe_dump({"board": {"address": address, **entry}}))


def said(ended: Ended, *codes: int) -> Any:
    assert ended.code in (codes or (0,)), ended.err
    return json.loads(ended.out)


def measured(cabled: Cli, *command: str, goes_on: bool = True) -> Ended:
    """The command's end; where this machine was too busy to measure, it is given again, as told."""
    for again in ((), *2 * [("--resume",) if goes_on else ()]):
        ended = cabled(*command, *again, "--device", "board", "--format", "json")
        if "does not run steadily" not in ended.err:
            break
    return ended


def profiled(cabled: Cli, *options: str) -> LatencyTable:
    return read_table(Path(said(measured(cabled, "profile", *options))["table"]))


@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_space_is_measured_and_a_file_of_it_verified(
    way: str, cabled: Cli, request: pytest.FixtureRequest
) -> None:
    fixture, address = WAYS[way]
    box: Adbd | Sshd = request.getfixturevalue(fixture)
    # this machine may itself run in qemu, which its own processor's name then tells
    name_it(address(box), emulated=False)

    table = profiled(cabled)
    assert set(table.ops) == {str(op.key) for op in small_space().all_ops()}
    assert (table.device, table.origin, len(table.anchors)) == ("board", "measured", 3)

    files = said(measured(cabled, "verify", "--run", "tiny", goes_on=False), 0, 5)
    assert all(file["within_bound"] in (True, False) for file in files)
    assert {file["origin"] for file in files} == {"measured"}

    bench = said(measured(cabled, "bench", WINNER, goes_on=False))
    assert bench["median_ms"] > 0
    assert not box.processes(), "something of ours is left running"


def test_a_search_measures_its_candidates_over_the_cable(cabled: Cli, ssh_user: Sshd) -> None:
    name_it(f"ssh:pi@127.0.0.1:{ssh_user.port}", emulated=False)
    profiled(cabled)
    search = ("search", "--latency", "20ms", "--strategy", "random", "--trials", "4")
    found = said(measured(cabled, *search, "--name", "found"))["candidate"]
    assert found["origin"] == "measured"
    assert found["ms"] < 20


def test_an_attached_phone_is_found_examined_and_cleaned(cabled: Cli, phone: Adbd) -> None:
    added = cabled("devices", "add", "pixel", "--adb", phone.serial, "--project")
    assert added.code == 0, added.err
    checks = said(cabled("doctor", "--device", "pixel", "--format", "json"))
    rows = {row["check"]: row for row in checks}
    assert rows["reachable"]["found"].startswith("Maker Phone 1")
    assert all(not rows[f"runtime {name}"]["to mend it"] for name in ("litert", "executorch"))
    listed = said(cabled("devices", "--format", "json"))
    states = {row["device"]: row["state"] for row in listed}
    assert states["pixel"] == "ready"
    assert f"adb:{phone.serial}" not in states, "it is listed by its name"
    assert phone.path("/data/local/tmp/nasdeploy").is_dir()
    assert cabled("devices", "clean", "pixel").code == 0
    assert not phone.path("/data/local/tmp/nasdeploy").exists()


def test_times_of_an_emulated_board_are_marked_and_not_searched_unless_told(
    cabled: Cli, arm_board: VirtualBoard
) -> None:
    need("aarch64-linux-gnu-g++")
    name_it(f"ssh:pi@127.0.0.1:{arm_board.ssh_port}")
    narrow = {**PROJECT["space"], "kernels": [3], "expansions": [2]}
    Path("nasdeploy.yaml").write_text(yaml.safe_dump({**PROJECT, "space": narrow}))
    table = profiled(cabled, "--anchors", "0", "--duration-s", "0")
    assert set(table.ops) == {str(op.key) for op in make_space(**narrow).all_ops()}
    assert table.origin == "emulated"
    refused = cabled("search", "--latency", "80%", "--device", "board", "--strategy", "random")
    assert refused.code == 2
    assert "is emulated" in refused.err
    assert "--allow-simulated" in refused.err
