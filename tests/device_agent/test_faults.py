"""What goes wrong between here and a device, against the real daemons: nothing is lost or left."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from targets.box import Box, wait_until
from targets.pushed_runner import PushedRunner

from nasdeploy.device_agent import link, remote
from nasdeploy.device_agent.adb import AdbDevice
from nasdeploy.device_agent.adb_tcp import AdbTcpDevice
from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.measure import MeasureConfig, measure
from nasdeploy.device_agent.remote import RemoteDevice
from nasdeploy.device_agent.retry import Patience
from nasdeploy.device_agent.session import Session
from nasdeploy.device_agent.ssh import SshDevice
from nasdeploy.durable import Journal, read_jsonl
from nasdeploy.errors import CommandFailed, DeviceError, DeviceUnreachable, OutOfResources

TO_A_BOARD = ("adb", "adb+tcp to a board", "ssh")
GraphOf = Callable[[str], Graph]


@pytest.fixture(params=TO_A_BOARD)
def cabled(request: pytest.FixtureRequest, connect: Callable[[str], Any]) -> Any:
    return connect(request.param)


@pytest.fixture
def device(cabled: Any) -> RemoteDevice:
    device = cabled.device
    assert isinstance(device, RemoteDevice)
    return device


@pytest.fixture
def box(cabled: Any) -> Box:
    box = cabled.box
    assert isinstance(box, Box)
    return box


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.bin"
    path.write_bytes(random.Random(0).randbytes(300_000))
    return path


@pytest.fixture(autouse=True)
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that hangs is found out at once, and not after a while as it should be."""
    monkeypatch.setattr(link, "PULSE_S", 0.3)
    monkeypatch.setattr(remote, "_ALIVE_S", 2.0)
    for module in ("adb", "adb_tcp", "ssh"):
        monkeypatch.setattr(f"nasdeploy.device_agent.{module}.CONNECT_S", 2.0)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


@pytest.fixture
def run(
    device: RemoteDevice,
    graph: GraphOf,
    quick: MeasureConfig,
    journal: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Session]:
    """A session of 6 rounds in two starts, measured on the device."""
    monkeypatch.setenv("NASDEPLOY_CACHE", str(tmp_path / "cache"))
    patience = Patience(first_wait_s=0.05, longest_wait_s=0.5, give_up_after_s=20.0)

    def call(on_progress: Any = None, *, patience: Patience = patience) -> Session:
        return measure(
            device,
            PushedRunner(),
            [graph("small"), graph("large")],
            sentinel=graph("sentinel"),
            empty=graph("empty"),
            config=replace(quick, patience=patience),
            journal=Journal(journal),
            seed=7,
            on_progress=on_progress,
        )

    return call


@pytest.fixture(scope="module")
def undisturbed(
    shared_local: LocalDevice,
    graph: GraphOf,
    quick: MeasureConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Session:
    """The same session on this machine, where nothing goes wrong."""
    return measure(
        shared_local,
        PushedRunner(),
        [graph("small"), graph("large")],
        sentinel=graph("sentinel"),
        empty=graph("empty"),
        config=quick,
        journal=Journal(tmp_path_factory.mktemp("undisturbed") / "journal.jsonl"),
        seed=7,
    )


def samples_of(session: Session) -> dict[str, list[list[float]]]:
    return {name: samples.wall_ms.tolist() for name, samples in session.samples.items()}


def rounds_in(journal: Path) -> list[dict[str, Any]]:
    return [entry for entry in read_jsonl(journal) if entry["event"] == "round"]


def assert_nothing_is_left(device: RemoteDevice, box: Box) -> None:
    """No process, and after the next meeting no record and no half of a file either."""
    try:
        wait_until(lambda: not box.processes(), "an idle device")
    except TimeoutError:
        pytest.fail(f"there runs on: {box.processes()}")
    workdir = device.workdir
    under_way = box.path(workdir).parent / "run"
    assert [path.name for path in under_way.iterdir()] == []


def strike_once(strike: Callable[[], None], mend: Callable[[], None], *, after: int) -> Any:
    """An `on_progress` that strikes after so many rounds, and mends when that was noticed."""
    struck: list[str] = []

    def on_progress(done: int, total: int, eta_s: float | None, text: str) -> None:
        if "Trying again" in text:
            mend()
        elif done == after and not struck:
            struck.append(text)
            strike()

    return on_progress


STRIKES: dict[str, Callable[[Box], None]] = {
    "the daemon is killed": Box.kill_daemon,
    "the cable is pulled": lambda box: box.relay.cut(),
    "the device is started anew": Box.reboot,
    "the daemon hangs": Box.freeze,
}


@pytest.mark.slow
@pytest.mark.parametrize("strike", sorted(STRIKES))
def test_a_session_survives(
    strike: str,
    run: Callable[..., Session],
    undisturbed: Session,
    device: RemoteDevice,
    box: Box,
    journal: Path,
) -> None:
    session = run(strike_once(lambda: STRIKES[strike](box), box.heal, after=2))
    assert [entry["round"] for entry in rounds_in(journal)] == list(range(6))
    assert samples_of(session) == samples_of(undisturbed)
    assert_nothing_is_left(device, box)


@pytest.mark.slow
def test_ctrl_c_in_a_round_ends_what_ran_and_the_next_call_goes_on_behind_it(
    run: Callable[..., Session],
    undisturbed: Session,
    device: RemoteDevice,
    box: Box,
    journal: Path,
) -> None:
    def interrupt(done: int, total: int, eta_s: float | None, text: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupt)
    assert_nothing_is_left(device, box)
    kept = rounds_in(journal)
    assert len(kept) == 2
    assert samples_of(run()) == samples_of(undisturbed)
    assert rounds_in(journal)[:2] == kept


@pytest.mark.slow
def test_a_device_that_stays_away_is_given_up_and_what_was_complete_is_kept(
    run: Callable[..., Session], undisturbed: Session, box: Box, journal: Path
) -> None:
    soon = Patience(first_wait_s=0.05, longest_wait_s=0.1, give_up_after_s=0.2)
    with pytest.raises(DeviceUnreachable) as caught:
        run(strike_once(box.kill_daemon, lambda: None, after=2), patience=soon)
    assert caught.value.exit_code == 4
    said = str(caught.value)
    assert f"The {len(rounds_in(journal))} accepted rounds are kept" in said
    assert str(journal) in said and "--resume" in said
    box.heal()
    assert samples_of(run()) == samples_of(undisturbed)


def test_output_that_was_cut_short_is_never_taken_for_all_of_it(
    device: RemoteDevice, box: Box
) -> None:
    with pytest.raises(DeviceUnreachable):
        device.run(
            ["sh", "-c", "echo begin; sleep 77; echo end"],
            timeout_s=30,
            on_line=lambda line: box.kill_daemon(),
        )
    box.heal()
    assert_nothing_is_left(device, box)


@pytest.mark.slow
def test_a_device_that_hangs_is_found_out_long_before_the_timeout(
    device: RemoteDevice, box: Box
) -> None:
    began = time.monotonic()
    with pytest.raises(DeviceUnreachable):
        device.run(["sh", "-c", "echo; sleep 77"], timeout_s=60, on_line=lambda line: box.freeze())
    assert time.monotonic() - began < 30
    box.heal()
    assert_nothing_is_left(device, box)


HOLD = """
import sys
from pathlib import Path
from nasdeploy.device_agent.adb import AdbDevice
from nasdeploy.device_agent.adb_tcp import AdbTcpDevice
from nasdeploy.device_agent.ssh import SshDevice
device = eval(sys.argv[1])
say = lambda line: print(line, flush=True)
device.run(["sh", "-c", "echo ready; sleep 77"], timeout_s=60, on_line=say)
"""


@pytest.mark.slow
def test_when_this_side_is_killed_nothing_of_it_runs_on(device: RemoteDevice, box: Box) -> None:
    argv = [sys.executable, "-c", HOLD, how_to_open(device)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert box.processes()
        process.kill()
    assert_nothing_is_left(device, box)


def how_to_open(device: RemoteDevice) -> str:
    if isinstance(device, SshDevice):
        return (
            f"SshDevice('pi', '127.0.0.1', {device.port}, key=Path({str(device.key)!r}), "
            f"known_hosts=Path({str(device.known_hosts)!r}))"
        )
    if isinstance(device, AdbTcpDevice):
        return f"AdbTcpDevice('127.0.0.1', {device.port})"
    assert isinstance(device, AdbDevice)
    return f"AdbDevice({device.serial!r})"


# files


def put(box: Box, path: str) -> bytes | None:
    """What lies at a path of the device."""
    with suppress(FileNotFoundError):
        return box.path(path).read_bytes()
    return None


@pytest.mark.slow
def test_a_push_that_is_cut_anywhere_leaves_all_or_nothing(
    device: RemoteDevice, box: Box, file: Path
) -> None:
    rng = random.Random(1)
    content = file.read_bytes()
    cuts = 0
    for number in range(20):
        remote_path = f"{device.workdir}/{number}.bin"
        box.relay.cut_after(rng.randrange(len(content) + 20_000))
        before = box.relay.cuts
        with suppress(DeviceUnreachable):
            device.push(file, remote_path)
        cuts += box.relay.cuts - before
        assert put(box, remote_path) in (None, content)
        box.relay.cut_after(None)
        for _ in range(3):  # the adb server needs a moment to see that the cable is back
            with suppress(DeviceUnreachable):
                device.push(file, remote_path)
                break
        assert put(box, remote_path) == content
    assert cuts >= 15
    assert_nothing_is_left(device, box)


def test_of_many_files_none_is_there_by_half_after_a_cut(
    device: RemoteDevice, box: Box, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "small.bin").write_bytes(b"small")
    files = [
        (tmp_path / "small.bin", f"{device.workdir}/small.bin"),
        (file, f"{device.workdir}/large.bin"),
    ]
    box.relay.cut_after(200_000)
    with pytest.raises(DeviceUnreachable):
        device.push_all(files)
    assert [put(box, remote_path) for _, remote_path in files] == [None, None]
    box.heal()
    wait_until(lambda: pushed(device, files), "a cable that is whole again")
    for local, remote_path in files:
        assert put(box, remote_path) == local.read_bytes()
    assert_nothing_is_left(device, box)


def pushed(device: RemoteDevice, files: list[tuple[Path, str]]) -> bool:
    with suppress(DeviceUnreachable):  # the adb server needs a moment to see the cable
        device.push_all(files)
        return True
    return False


def test_a_daemon_that_dies_in_a_push_leaves_nothing_that_could_be_run(
    device: RemoteDevice, box: Box, file: Path
) -> None:
    remote_path = f"{device.workdir}/x.bin"
    box.relay.on_cut = box.kill_daemon
    box.relay.cut_after(200_000)
    with pytest.raises(DeviceUnreachable):
        device.push(file, remote_path)
    assert put(box, remote_path) is None
    box.heal()
    device.push(file, remote_path)
    assert put(box, remote_path) == file.read_bytes()
    assert_nothing_is_left(device, box)


def test_a_full_device_is_named_and_keeps_no_half_of_a_file(
    device: RemoteDevice, box: Box, file: Path
) -> None:
    remote_path = f"{device.workdir}/x.bin"
    box.fill(device.workdir, leave_bytes=100_000)
    with pytest.raises(OutOfResources, match=r"is full: 300000 bytes .* Make room there") as caught:
        device.push(file, remote_path)
    assert caught.value.exit_code == 7
    assert put(box, remote_path) is None
    assert device.run(["echo", "still here"], timeout_s=10).stdout == "still here\n"
    box.room()
    device.push(file, remote_path)
    assert put(box, remote_path) == file.read_bytes()
    assert_nothing_is_left(device, box)


@pytest.fixture
def liar(box: Box) -> Iterator[None]:
    """The device says of every file that it has the content of an empty one."""
    path = box.path("/usr/bin/sha256sum")
    honest = path.read_bytes()
    path.write_text(f"#!/bin/sh\necho '{hashlib.sha256(b'').hexdigest()}  -'\n")
    yield
    path.write_bytes(honest)


@pytest.mark.usefixtures("liar")
def test_a_device_that_lies_about_a_file_is_refused(
    device: RemoteDevice, box: Box, file: Path, tmp_path: Path
) -> None:
    remote_path = f"{device.workdir}/x.bin"
    with pytest.raises(CommandFailed, match="another sha256"):
        device.push(file, remote_path)
    assert put(box, remote_path) is None
    device.run(["sh", "-c", 'echo x > "$1"', "sh", remote_path], timeout_s=10)
    with pytest.raises(CommandFailed, match="another content than it says"):
        device.pull(remote_path, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_cleaning_removes_our_folder_and_nothing_else(
    device: RemoteDevice, box: Box, file: Path
) -> None:
    base = PurePosixPath(device.workdir).parent
    neighbour = box.path(str(base.parent)) / "neighbour"
    neighbour.write_text("not ours")
    device.push(file, f"{device.workdir}/x.bin")
    device.clean()
    assert not box.path(str(base)).exists()
    assert neighbour.read_text() == "not ours"


@pytest.mark.slow
def test_what_another_process_uses_is_not_cleaned_away(device: RemoteDevice, box: Box) -> None:
    argv = [sys.executable, "-c", HOLD, how_to_open(device)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(DeviceError, match="being used by another nasdeploy"):
            device.clean()
        process.kill()
    wait_until(lambda: not box.processes(), "an idle device")
    device.clean()
