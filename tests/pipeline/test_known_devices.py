"""devices.yaml: names for devices, of the user and of the project."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from nasdeploy.device_agent.address import Address
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.readiness import Setup
from nasdeploy.device_agent.simulated import SimulatedDevice
from nasdeploy.device_agent.ssh import SshDevice
from nasdeploy.errors import BadInput, UnknownName, UsageError
from nasdeploy.pipeline import opening
from nasdeploy.pipeline.known_devices import (
    PROJECT_DEVICES,
    DeviceEntry,
    add_device,
    known_devices,
    remove_device,
    user_devices,
)
from nasdeploy.pipeline.opening import entry_of, open_named


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user and a project of their own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("NASDEPLOY_CACHE", str(tmp_path / "cache"))
    (tmp_path / "project").mkdir()
    monkeypatch.chdir(tmp_path / "project")


def write(text: str) -> None:
    PROJECT_DEVICES.write_text(text)


def test_without_files_there_are_no_names() -> None:
    assert known_devices() == {}


def test_the_projects_entry_counts_before_the_users() -> None:
    user_devices().parent.mkdir(parents=True)
    user_devices().write_text("pixel: adb:A\npi: ssh:pi@board\n")
    write("pixel: {address: 'adb:B', cpus: big}\n")
    known = known_devices()
    assert {name: device.entry.address for name, device in known.items()} == {
        "pixel": "adb:B",
        "pi": "ssh:pi@board:22",
    }
    assert known["pixel"].path == PROJECT_DEVICES


def test_an_entry_says_how_a_device_is_measured() -> None:
    write("pi:\n  address: ssh:pi@board\n  cpus: 3\n  max_temp_c: 60\n  cool_limit_s: 5\n")
    opened = open_named("pi")
    assert isinstance(opened.device, SshDevice)
    assert opened.device.name == "pi"
    assert opened.setup == Setup(cpus="3", max_temp_c=60, cool_limit_s=5)
    asked = open_named("pi", cpus="0-1", max_temp_c=50)
    assert asked.setup == Setup(cpus="0-1", max_temp_c=50, cool_limit_s=5)


def test_this_machine_may_have_an_entry_too() -> None:
    write("local: {address: local, cpus: '0', runner: python}\n")
    opened = open_named("local")
    assert isinstance(opened.device, LocalDevice)
    assert (opened.setup.cpus, opened.runner_choice) == ("0", "python")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pi:\n  address: ssh:pi@board\n  cpu: big\n",
         "devices.yaml, pi, line 3: Unknown field 'cpu'. Did you mean 'cpus'?"),
        ("pi: {address: 'ssh:board'}\n", "devices.yaml, pi, line 1: address: 'ssh:board' is not"),
        ("a: adb:X\npi:\n  cpus: big\n", "devices.yaml, pi, line 2: address: Field required."),
        ("pi:\n  address: sim:x\n  simulation:\n    noice: 1\n",
         "devices.yaml, pi, line 4: Unknown field 'noice'. Did you mean 'noise'?"),
        ("pi:\n  address: sim:x\n  simulation:\n    faults:\n      - kind: cut\n      - kid: cut\n",
         "devices.yaml, pi, line 6"),
        ("pi:\n  address: adb:X\n  max_temp_c: hot\n", "line 3: max_temp_c: Input should be"),
        ("pi: [1, 2]\n", "devices.yaml, pi, line 1"),
        ("- pi\n", "names of devices are expected"),
        ("a:b: {address: local}\n", "'a:b' cannot be a device's name"),
        ("pi: {address: adb:X\n", "line"),
        ("pi: !!python/object:os.system {}\n", "not YAML that can be read safely"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_file_is_named_with_its_line(text: str, message: str) -> None:
    write(text)
    with pytest.raises(BadInput) as error:
        known_devices()
    assert message in str(error.value)


def test_adding_keeps_the_other_entries() -> None:
    write("pi: ssh:pi@board\n")
    entry = DeviceEntry(address="adb:X", cpus="big")
    add_device("pixel", entry, path=PROJECT_DEVICES)
    assert yaml.safe_load(PROJECT_DEVICES.read_text()) == {
        "pi": "ssh:pi@board",
        "pixel": {"address": "adb:X", "cpus": "big"},
    }
    with pytest.raises(UsageError, match=r"has a device pixel already.*--replace"):
        add_device("pixel", entry, path=PROJECT_DEVICES)
    add_device("pixel", DeviceEntry(address="adb:Y"), path=PROJECT_DEVICES, replace=True)
    assert known_devices()["pixel"].entry.address == "adb:Y"


@pytest.mark.parametrize("name", ["android", "", "a b", "-x", "x:y", "../x"])
def test_some_names_cannot_be_given(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be a device's name"):
        add_device(name, DeviceEntry(address="adb:X"), path=PROJECT_DEVICES)
    assert not PROJECT_DEVICES.exists()


def test_removing_takes_the_entry_that_counts() -> None:
    add_device("pixel", DeviceEntry(address="adb:USER"), path=user_devices())
    add_device("pixel", DeviceEntry(address="adb:PROJECT"), path=PROJECT_DEVICES)
    assert remove_device("pixel") == PROJECT_DEVICES
    assert known_devices()["pixel"].entry.address == "adb:USER"
    assert remove_device("pixel") == user_devices()
    with pytest.raises(UnknownName):
        remove_device("pixel")


def test_a_misspelt_name_is_answered_with_the_likely_one() -> None:
    write("pixel: adb:X\n")
    with pytest.raises(UnknownName, match="Did you mean 'pixel'"):
        open_named("pixle")


@pytest.mark.parametrize(
    ("attached", "found"),
    [
        ([("A", "device")], "A"),
        ([("A", "unauthorized"), ("B", "device")], "B"),
        ([("A", "device"), ("B", "device")], r"2 phones are attached: say which.*adb:A"),
        ([("A", "unauthorized")], r"No phone is attached and ready, only A \(unauthorized\)"),
        ([], r"No phone is attached and ready\. "),
    ],
)
def test_android_is_the_phone_that_is_attached(
    attached: list[tuple[str, str]], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nasdeploy.device_agent.adb.list_attached", lambda: attached)
    if len(found) == 1:
        assert entry_of("android")[1] == Address("adb", serial=found)
    else:
        with pytest.raises(UsageError, match=found):
            entry_of("android")


def test_a_simulated_device_takes_the_times_of_a_shipped_table() -> None:
    write("fake:\n  address: sim:pixel1\n  simulation: {seed: 4, faults: [{kind: cut}]}\n")
    opened = open_named("fake")
    assert isinstance(opened.device, SimulatedDevice)
    assert opened.device.behaviour.seed == 4
    assert opened.device.behaviour.faults[0].kind == "cut"
    assert opened.simulated_from is not None
    assert len(opened.device.latencies_ms) == len(opened.simulated_from.ops)
    assert opened.origin() == "simulated"


def test_only_a_simulated_device_is_simulated() -> None:
    write("pixel: {address: 'adb:X', simulation: {noise: 0.1}}\n")
    with pytest.raises(UsageError, match="only sim: devices"):
        open_named("pixel")


@pytest.mark.parametrize(
    ("says", "seen", "origin"),
    [("true", None, "emulated"), ("false", "its board is qemu's", "measured"),
     ("null", "its board is qemu's", "emulated"), ("null", None, "measured")],
)  # fmt: skip
def test_who_knows_better_says_whether_it_is_an_emulator(
    says: str, seen: str | None, origin: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "seen_emulator", lambda device: seen)
    write(f"local: {{address: local, emulated: {says}}}\n")
    assert open_named("local").origin() == origin
