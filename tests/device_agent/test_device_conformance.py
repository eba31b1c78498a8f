"""What every device promises. A new one joins by a word in `DEVICE_KINDS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from targets.box import wait_until

from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.devices import OPENERS, open_device
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.simulated import SimulatedDevice
from nasdeploy.errors import CommandFailed, DeviceError, UsageError

DEVICE_KINDS = ("local", "adb", "adb on a phone", "adb+tcp", "ssh", "sim")


@pytest.fixture(params=DEVICE_KINDS)
def device(request: pytest.FixtureRequest, tmp_path: Path, connect: Callable[[str], Any]) -> Device:
    if request.param == "local":
        return LocalDevice(tmp_path / "device")
    if request.param == "sim":
        return SimulatedDevice("sim:x", "x", {}, workdir=tmp_path / "device")
    opened: Device = connect(request.param).device
    return opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file.bin"
    path.write_bytes(bytes(range(256)) * 1000)
    return path


def test_every_registered_device_is_held_to_these_promises() -> None:
    assert {kind.split()[0] for kind in DEVICE_KINDS} == set(OPENERS)


def test_what_was_pushed_comes_back_as_it_was(device: Device, file: Path, tmp_path: Path) -> None:
    remote = f"{device.workdir}/deep/er/it's here.bin"
    device.push(file, remote)
    device.pull(remote, tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == file.read_bytes()


def test_a_push_replaces_what_was_there(device: Device, file: Path, tmp_path: Path) -> None:
    remote = f"{device.workdir}/x.bin"
    device.push(file, remote)
    file.write_bytes(b"another")
    device.push(file, remote)
    device.pull(remote, tmp_path / "back.bin")
    assert (tmp_path / "back.bin").read_bytes() == b"another"


def test_many_files_are_pushed_at_once(device: Device, tmp_path: Path) -> None:
    files = []
    for number in range(90):
        (tmp_path / f"{number}.bin").write_text(f"it is {number}")
        remote = f"{device.workdir}/{'ab'[number % 2]}/{number}.bin"
        files.append((tmp_path / f"{number}.bin", remote))
    device.push(files[3][0], files[4][1])
    device.push_all(files)
    found = device.run(["cat", *(remote for _, remote in files)], timeout_s=10).stdout
    assert found == "".join(f"it is {number}" for number in range(90))


def test_a_program_that_was_pushed_can_be_run(device: Device, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho it runs\n")
    remote = f"{device.workdir}/bin/program"
    device.push(program, f"{remote}.txt")
    program.chmod(0o755)
    device.push(program, remote)
    assert device.run([remote], timeout_s=10).stdout == "it runs\n"
    assert device.run(["test", "-x", f"{remote}.txt"], timeout_s=10).exit_code == 1


def test_what_is_there_already_is_not_written_again(device: Device, file: Path) -> None:
    remote = f"{device.workdir}/x.bin"
    device.push(file, remote)
    stat = ["stat", "-c", "%i %Y", remote]
    before = device.run(stat, timeout_s=10).stdout
    device.push(file, remote)
    assert device.run(stat, timeout_s=10).stdout == before


def test_a_push_leaves_nothing_else_behind(device: Device, file: Path) -> None:
    device.push(file, f"{device.workdir}/x.bin")
    assert device.run(["ls", "-A", device.workdir], timeout_s=10).stdout == "x.bin\n"


def test_cleaning_takes_what_was_pushed_and_the_device_can_be_used_again(
    device: Device, file: Path
) -> None:
    device.push(file, f"{device.workdir}/deep/x.bin")
    device.clean()
    assert "deep" not in device.run(["ls", "-A", device.workdir], timeout_s=10).stdout
    device.push(file, f"{device.workdir}/x.bin")


@pytest.mark.parametrize("outside", ["/etc/passwd", "{}/../other", "{}", "../x"])
def test_nothing_outside_its_folder_is_touched(
    device: Device, file: Path, outside: str, tmp_path: Path
) -> None:
    remote = outside.format(device.workdir)
    with pytest.raises(UsageError, match="outside"):
        device.push(file, remote)
    with pytest.raises(UsageError, match="outside"):
        device.pull(remote, tmp_path / "back")


def test_a_link_that_leads_out_is_not_followed(device: Device, file: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    made = device.run(["ln", "-s", str(elsewhere), f"{device.workdir}/link"], timeout_s=10)
    assert made.exit_code == 0
    with pytest.raises(UsageError, match="outside"):
        device.push(file, f"{device.workdir}/link/x.bin")
    assert not list(elsewhere.iterdir())


def test_a_file_that_is_not_there_cannot_be_pulled(device: Device, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="no file"):
        device.pull(f"{device.workdir}/missing", tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_command_has_exit_code_and_separate_streams(device: Device) -> None:
    done = device.run(["sh", "-c", "echo out; echo err >&2; exit 7"], timeout_s=10)
    assert (done.exit_code, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_no_argument_is_read_by_a_shell(device: Device) -> None:
    odd = "a b; $(echo c) `d` 'e' \"f\" * \\ \n g"
    assert device.run(["printf", "%s", odd], timeout_s=10).stdout == odd


def test_lines_come_before_the_command_ends(device: Device) -> None:
    class Seen(Exception): ...

    def see(line: str) -> None:
        raise Seen(line)

    with pytest.raises(Seen, match=r"^one$"):
        device.run(["sh", "-c", "echo one; sleep 77"], timeout_s=30, on_line=see)


def test_a_command_that_hangs_is_ended_with_its_children(device: Device) -> None:
    lines: list[str] = []
    with pytest.raises(DeviceError):
        device.run(["sh", "-c", "sleep 77 & echo $!; wait"], timeout_s=0.3, on_line=lines.append)
    wait_until(lambda: not runs(device, lines[0]), "the end of a child of the command")


def runs(device: Device, process: str) -> bool:
    """Whether it does; one that has ended and that its parent did not ask about does not."""
    script = 'read -r stat < "/proc/$1/stat" && case "${stat##*) }" in Z*) exit 1;; esac'
    return device.run(["sh", "-c", script, "sh", process], timeout_s=10).exit_code == 0


def test_a_device_says_who_it_is_the_same_way_each_time(device: Device) -> None:
    info = device.info()
    assert info == device.info()
    assert info.fingerprint.strip() == info.fingerprint != ""
    assert info.cores >= 1
    assert info.target in ("arm64", "x86-64")


def test_this_machine_has_its_folder_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NASDEPLOY_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_device("local").workdir == str(tmp_path / "nasdeploy" / "device")
