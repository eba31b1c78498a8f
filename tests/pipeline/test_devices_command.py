"""``devices`` and ``doctor``: what there is, what stands in its way, and how to mend it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_run import Cli, write_small_table

from nasdeploy.device_agent.condition import UNKNOWN
from nasdeploy.device_agent.device import DeviceInfo
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.errors import DeviceUnreachable
from nasdeploy.pipeline.doctor import Check, _ndk, _state, free_bytes
from nasdeploy.pipeline.reachable import reachable_devices

NOWHERE = "ssh:nobody@127.0.0.1:1"


@pytest.fixture(autouse=True)
def config(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    return folder / "config" / "nasdeploy" / "devices.yaml"


def found(cli: Cli, *arguments: str) -> dict[str, Any]:
    ended = cli(*arguments, "--format", "json")
    assert ended.code == 0, ended.err
    return {str(row["device"]): row for row in json.loads(ended.out)}


def test_this_machine_is_listed_with_what_it_is(cli: Cli) -> None:
    local = found(cli, "devices")["local"]
    assert local["state"] == "ready"
    assert local["cores"] >= 1
    assert local["fingerprint"] == LocalDevice().info().fingerprint


def test_a_name_is_added_listed_and_removed(cli: Cli, config: Path) -> None:
    added = cli("devices", "add", "pi", "--ssh", "nobody@127.0.0.1:1", "--cpus", "0-3")
    assert added.code == 0, added.err
    assert yaml.safe_load(config.read_text()) == {"pi": {"address": NOWHERE, "cpus": "0-3"}}
    assert added.err.splitlines()[-1] == "Next: nasdeploy doctor --device pi"

    pi = found(cli, "devices")["pi"]
    assert (pi["address"], pi["state"]) == (NOWHERE, "unreachable")
    assert "does not answer" in pi["to do"]

    assert cli("devices", "remove", "pi").code == 0
    assert list(found(cli, "devices")) == ["local"]


def test_a_project_keeps_its_own_names(cli: Cli, folder: Path, config: Path) -> None:
    assert cli("devices", "add", "lab", "--adb-tcp", "10.0.0.7", "--project").code == 0
    assert yaml.safe_load((folder / "devices.yaml").read_text()) == {
        "lab": {"address": "adb+tcp:10.0.0.7:5555"}
    }
    assert not config.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "x"), "by one of --adb, --adb-tcp, --ssh and --sim"),
        (("add", "x", "--adb", "A", "--ssh", "a@b"), "by one of"),
        (("add", "x", "--ssh", "board"), "ssh:user@host:22"),
        (("add", "android", "--adb", "A"), "the phone that is attached"),
        (("remove", "x"), "Unknown device 'x'"),
        (("clean", "x"), "Unknown device 'x'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(
    cli: Cli, arguments: tuple[str, ...], message: str, config: Path
) -> None:
    ended = cli("devices", *arguments)
    assert ended.code == 2
    assert message in ended.err
    assert not config.exists()


def test_what_adb_sees_is_listed_with_what_to_do_about_it(
    cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "devices.yaml").write_text("pixel: adb:NAMED\n")
    attached = [("NAMED", "unauthorized"), ("OTHER", "no permissions")]
    monkeypatch.setattr("nasdeploy.device_agent.adb.list_attached", lambda: attached)
    rows = {device.name: device for device in reachable_devices(warn=pytest.fail)}
    assert list(rows) == ["local", "pixel", "adb:OTHER"]
    assert rows["pixel"].state == "unauthorized"
    assert "Allow USB debugging" in rows["pixel"].advice
    assert "adb kill-server" in rows["adb:OTHER"].advice


def test_without_an_adb_server_the_others_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_server() -> list[tuple[str, str]]:
        raise DeviceUnreachable("no adb server")

    monkeypatch.setattr("nasdeploy.device_agent.adb.list_attached", no_server)
    said: list[str] = []
    assert [device.name for device in reachable_devices(said.append)] == ["local"]
    assert said == ["Phones cannot be listed: no adb server"]


def test_a_device_is_cleaned_by_its_name(cli: Cli, folder: Path) -> None:
    write_small_table(folder / "tables" / "toy.yaml")
    device = folder / "left.txt"
    device.write_text("x")
    (folder / "devices.yaml").write_text("fake: sim:toy\n")
    from nasdeploy.pipeline.opening import open_named

    opened = open_named("fake").device
    opened.push(device, f"{opened.workdir}/left.txt")
    ended = cli("devices", "clean", "fake")
    assert ended.code == 0, ended.err
    assert not list(Path(opened.workdir).iterdir())


def test_the_doctor_says_why_a_device_cannot_be_reached(cli: Cli) -> None:
    ended = cli("doctor", "--device", NOWHERE, "--format", "json")
    assert ended.code == 2
    rows = {row["check"]: row for row in json.loads(ended.out)}
    assert rows["reachable"]["found"] == "no"
    assert "does not answer" in rows["reachable"]["to mend it"]
    assert "memory" in rows, "this machine is looked at all the same"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("ssh:nobody", "'ssh:nobody' is not an address: write ssh:user@host:22."),
        ("ssh:-oProxyCommand=x@host", "is not an address: write ssh:user@host:22."),
        ("usb:1", "Unknown kind of address 'usb'."),
    ],
)
def test_what_is_no_address_is_answered_with_how_one_is_written(
    cli: Cli, address: str, said: str
) -> None:
    ended = cli("doctor", "--device", address)
    assert ended.code == 2
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1, "no traceback"


def test_the_doctor_marks_a_simulated_device(cli: Cli, folder: Path) -> None:
    write_small_table(folder / "tables" / "toy.yaml")
    ended = cli("doctor", "--device", "sim:toy", "--format", "json")
    assert ended.code == 0, ended.err
    rows = {row["check"]: row["found"] for row in json.loads(ended.out)}
    assert rows["times"] == "simulated"
    assert rows["runtime litert"] == "simulated"


def test_a_device_can_be_measured_with_the_runtimes_that_it_has(cli: Cli, folder: Path) -> None:
    program = folder / "benchmark_model"
    program.write_text("#!/bin/sh\n")
    ended = cli("doctor", "--runner", str(program), "--format", "json")
    rows = {row["check"]: row for row in json.loads(ended.out)}
    assert ended.code == 0, ended.err
    assert rows["runtime litert"]["found"] == rows["runner"]["found"]
    assert rows["runtime onnxruntime"]["found"] == "missing"
    ended = cli("doctor", "--runner", str(folder / "missing"), "--format", "json")
    assert ended.code == 2


def test_the_doctor_of_a_phone_says_what_an_ndk_can_be_used_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def phone() -> DeviceInfo:
        return replace(LocalDevice().info(), extra={"platform": "android"})

    device = LocalDevice()
    monkeypatch.setattr(device, "info", phone)
    monkeypatch.delenv("ANDROID_NDK_HOME", raising=False)
    assert _ndk(device, {"native, libc=glibc"}) == ""
    monkeypatch.setenv("ANDROID_NDK_HOME", "/opt/ndk")
    assert "--runner ndk:ARCHIVE.aar" in _ndk(device, {"native, libc=glibc"})
    assert _ndk(device, {"native, libc=bionic"}) == ""


@pytest.mark.parametrize(
    ("printed", "free"),
    [
        (
            "Filesystem 1K-blocks Used Available Use% Mounted on\n/dev/x 100 40 60 40% /data\n",
            61440,
        ),
        ("Filesystem 1K-blocks\n/dev/a/very/long/name\n  100 40 60 40% /data\n", 61440),
        ("", None),
        ("df: nothing\nnonsense\n", None),
    ],
)
def test_free_space_is_read_from_df(printed: str, free: int | None) -> None:
    assert free_bytes(printed) == free


def test_a_throttling_phone_forbids_measuring_and_says_how_to_wait() -> None:
    hot = {c.what: c for c in _state(_condition(thermal_status=3), cores=8)}
    assert hot["thermal status"].forbids
    assert "--max-temp" in hot["thermal status"].mend


@pytest.mark.parametrize(
    ("state", "what", "found", "mend"),
    [
        ({"governors": {"cpu0": "schedutil"}}, "governor", "schedutil", "cpupower"),
        ({"governors": {"cpu0": "performance"}}, "governor", "performance", ""),
        ({"load_average": 7.5}, "load", "7.50", "Close what else"),
        ({"battery_percent": 9, "charging": False}, "battery", "9 %, not charging", "Plug it in"),
        ({"battery_percent": 9, "charging": True}, "battery", "9 %, charging", ""),
        ({"battery_c": 39.0}, "battery temperature", "39.0 °C", "waits until it has 37 °C"),
        (
            {"processor_mhz": {"cpu0": 2000.0}, "highest_mhz": {"cpu0": 1500.0}},
            "clock limits", "cpu0 below what they can", "held down",
        ),
        ({}, "governor", "unknown", ""),
        ({}, "clock limits", "unknown", ""),
    ],
)  # fmt: skip
def test_each_state_is_told_with_how_to_mend_it(
    state: dict[str, Any], what: str, found: str, mend: str
) -> None:
    checks: dict[str, Check] = {c.what: c for c in _state(_condition(**state), cores=8)}
    assert checks[what].found == found
    assert mend in checks[what].mend
    assert bool(mend) == bool(checks[what].mend)
    assert not checks[what].forbids


def _condition(**state: Any) -> Any:
    from dataclasses import replace

    return replace(UNKNOWN, **state)
