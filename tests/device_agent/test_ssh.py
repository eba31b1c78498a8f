"""SSH: keys and known hosts only, and what is said to those who have not both."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from targets.box import wait_until
from targets.daemons import Sshd, make_key

from nasdeploy.device_agent.ssh import SshDevice
from nasdeploy.errors import DeviceError, DeviceUnreachable, UsageError


@dataclass(frozen=True)
class Client:
    board: Sshd
    folder: Path

    def device(self, *, key: Path | None = None, known_hosts: Path | None = None) -> SshDevice:
        return SshDevice(
            "pi",
            "127.0.0.1",
            self.board.port,
            name="pi",
            key=key or self.board.key,
            known_hosts=known_hosts or self.board.known_hosts,
        )


@pytest.fixture
def client(sshd: Sshd, tmp_path: Path) -> Client:
    return Client(sshd, tmp_path)


def fingerprint(public_key: Path) -> str:
    argv = ["ssh-keygen", "-lf", str(public_key)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout.split()[1]


def test_an_unknown_host_is_refused_and_the_command_that_is_named_accepts_it(
    client: Client,
) -> None:
    known = client.folder / "known_hosts"
    known.touch()
    with pytest.raises(DeviceError, match="is not a known host") as caught:
        client.device(known_hosts=known).info()
    assert not isinstance(caught.value, DeviceUnreachable)
    host_key = client.board.key.with_name("host_key.pub")
    assert fingerprint(host_key) in str(caught.value)
    command = re.search(r"accept it: (ssh-keyscan .*)", str(caught.value))
    assert command is not None
    subprocess.run(["sh", "-c", command[1]], check=True, capture_output=True)
    assert client.device(known_hosts=known).info().extra["platform"] == "linux"


def test_a_host_with_another_key_than_the_known_one_is_refused(client: Client) -> None:
    other, known = client.folder / "other", client.folder / "known_hosts"
    make_key(other)
    kind, key = other.with_suffix(".pub").read_text().split()[:2]
    known.write_text(f"[127.0.0.1]:{client.board.port} {kind} {key}\n")
    with pytest.raises(DeviceError, match="shows another host key") as caught:
        client.device(known_hosts=known).info()
    assert fingerprint(other.with_suffix(".pub")) in str(caught.value)
    command = re.search(r"ssh-keygen -R .*", str(caught.value))
    assert command is not None
    subprocess.run(["sh", "-c", command[0]], check=True, capture_output=True)
    assert known.read_text() == ""


def test_a_key_that_the_board_does_not_know_is_answered_with_how_to_put_it_there(
    client: Client,
) -> None:
    make_key(client.folder / "mine")
    with pytest.raises(DeviceError, match=r"none of the keys .* ssh-copy-id -p \d+ pi@127.0.0.1"):
        client.device(key=client.folder / "mine").info()


def test_a_key_file_that_is_not_there_is_named(client: Client) -> None:
    with pytest.raises(UsageError, match=r"there is no private key .*/absent"):
        client.device(key=client.folder / "absent").info()


def test_a_board_that_is_not_there_is_worth_another_try(client: Client) -> None:
    client.board.kill_daemon()
    with pytest.raises(DeviceUnreachable, match=f"pi does not answer at port {client.board.port}"):
        client.device().info()


def test_a_connection_that_ended_in_between_is_opened_anew(client: Client) -> None:
    device = client.device()
    before = device.info()
    link = device._link
    assert link is not None
    client.board.relay.cut()
    # a busy kernel takes a moment to tell; until then it would be lost in use
    wait_until(lambda: not link.alive(), "the end of the connection")
    assert device.info() == before
