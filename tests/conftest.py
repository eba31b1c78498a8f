"""What tests of several folders share: devices behind a cable, which are real daemons, each in a
box or a machine that lasts for all tests."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from targets.board import NEEDS, VirtualBoard
from targets.box import Box
from targets.daemons import ADBD, SSHD, Adbd, AdbServer, Sshd, need

# before anybody imports torch: the tests share the machine, and threads that wait for each other
# are no faster on networks this small
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def builds(pytestconfig: pytest.Config) -> Path:
    """Native runners and fetched wheels, kept from one run of the tests to the next.

    A build is named by all that goes into it, so an old one is never taken for another.
    """
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("builds")
    for name in ("runners", "wheels"):
        (folder / name).mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AdbServer]:
    need("adb", boxed=False)
    server = AdbServer.choose(tmp_path_factory.mktemp("adb") / "home")
    server.adb("start-server")
    yield server
    server.stop()


@pytest.fixture
def adb_user(adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch) -> AdbServer:
    """For the test, the user is one who has this adb server and its key."""
    for name, value in adb_server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("ANDROID_SERIAL", raising=False)
    return adb_server


@pytest.fixture(scope="session")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Box]]:
    """Boxes by name, started when first asked for."""
    folder = tmp_path_factory.mktemp("boxes")
    makers: dict[str, Callable[[], Box]] = {
        "board": lambda: Adbd(folder / "board", phone=False, authenticates=False),
        "phone": lambda: Adbd(folder / "phone", phone=True, authenticates=True),
        "sshd": lambda: Sshd(folder / "sshd"),
    }
    started: dict[str, Box] = {}

    def get(name: str) -> Box:
        if name not in started:
            started[name] = makers[name]()
        started[name].heal()
        return started[name]

    yield get
    for box in started.values():
        box.stop()


@pytest.fixture
def board(boxes: Callable[[str], Box], adb_user: AdbServer) -> Adbd:
    """A Linux board whose adbd lets everybody in."""
    need(str(ADBD))
    box = boxes("board")
    assert isinstance(box, Adbd)
    return box


@pytest.fixture
def phone(boxes: Callable[[str], Box], adb_user: AdbServer) -> Adbd:
    """A phone that has allowed this user's key."""
    need(str(ADBD), "toybox", "mksh")
    box = boxes("phone")
    assert isinstance(box, Adbd)
    box.allow(adb_user.public_key)
    return box


@pytest.fixture
def sshd(boxes: Callable[[str], Box]) -> Sshd:
    """A board with an SSH server that knows a key of the user ``pi``."""
    need(str(SSHD), "ssh-keygen")
    box = boxes("sshd")
    assert isinstance(box, Sshd)
    return box


@pytest.fixture
def ssh_user(sshd: Sshd, adb_user: AdbServer) -> Sshd:
    """For the test, the user is one whose key and known hosts let them onto the board."""
    _give_key(adb_user, sshd.key, sshd.known_hosts)
    return sshd


@pytest.fixture(scope="session")
def virtual_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualBoard]:
    """An emulated arm64 machine, booted when first asked for."""
    need(*NEEDS)
    board = VirtualBoard(tmp_path_factory.mktemp("board") / "machine")
    yield board
    board.stop()


@pytest.fixture
def arm_board(virtual_board: VirtualBoard, adb_user: AdbServer) -> VirtualBoard:
    """The emulated machine, whose user `pi` knows the key of the one whom the test runs as."""
    _give_key(adb_user, virtual_board.image.client_key, virtual_board.known_hosts)
    return virtual_board


def _give_key(user: AdbServer, key: Path, known_hosts: Path) -> None:
    folder = user.home / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(key, folder / "id_ed25519")
    shutil.copy(known_hosts, folder / "known_hosts")
