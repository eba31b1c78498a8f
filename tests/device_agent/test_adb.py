"""ADB: who may come in, and what is said to those who may not."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from targets.daemons import Adbd, AdbServer

from nasdeploy.device_agent import adb
from nasdeploy.device_agent.adb import AdbDevice, list_attached
from nasdeploy.device_agent.adb_tcp import AdbTcpDevice, user_key
from nasdeploy.errors import DeviceError, DeviceUnreachable


def test_a_phone_says_what_it_is(phone: Adbd) -> None:
    info = AdbDevice(phone.serial).info()
    assert (info.model, info.soc) == ("Maker Phone 1", "Foundry S1000")
    assert info.os_version == "Android 14"
    assert info.extra["platform"] == "android"
    assert info.extra["sdk"] == "34"
    build = "maker/phone/phone:14/ABC/1:user/release-keys"
    assert info.fingerprint == f"Maker Phone 1, Foundry S1000, {info.cores} cores, {build}"


def test_what_a_phone_says_of_itself_is_bounded(phone: Adbd) -> None:
    properties = phone.path("/etc/props")
    honest = properties.read_text()
    try:
        properties.write_text(f"ro.product.model=\x1b[31m{'x' * 100_000}\n")
        info = AdbDevice(phone.serial).info()
    finally:
        properties.write_text(honest)
    assert info.model is not None and "\x1b" not in info.model and len(info.model) <= 200


def test_both_ways_to_a_phone_lead_to_the_same_place(phone: Adbd) -> None:
    through_the_server = AdbDevice(phone.serial, name="one")
    by_tcp = AdbTcpDevice("127.0.0.1", phone.port, name="two")
    assert through_the_server.place == by_tcp.place
    assert through_the_server.info() == by_tcp.info()


def test_an_attached_phone_is_listed_with_its_state(phone: Adbd) -> None:
    AdbDevice(phone.serial).info()
    assert (phone.serial, "device") in list_attached()


OPENERS: dict[str, Callable[[Adbd], AdbDevice | AdbTcpDevice]] = {
    "adb": lambda box: AdbDevice(box.serial, name="pixel"),
    "adb+tcp": lambda box: AdbTcpDevice("127.0.0.1", box.port, name="pixel"),
}


@pytest.mark.parametrize("way", sorted(OPENERS))
def test_a_phone_that_has_not_allowed_this_computer_says_what_to_do(
    way: str, phone: Adbd, adb_user: AdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    adb_user.adb("disconnect", phone.serial)
    phone.forget_keys()
    with (
        monkeypatch.context() as patch,
        pytest.raises(DeviceError, match=r"pixel is unauthorized: .*accept the question") as caught,
    ):
        patch.setattr("nasdeploy.device_agent.adb_tcp.CONNECT_S", 2.0)
        OPENERS[way](phone).info()
    assert not isinstance(caught.value, DeviceUnreachable)  # waiting alone will not help
    phone.allow(adb_user.public_key)
    adb_user.adb("disconnect", phone.serial)
    assert OPENERS[way](phone).info().model == "Maker Phone 1"


@pytest.mark.parametrize("way", sorted(OPENERS))
def test_a_device_that_is_not_there_is_worth_another_try(
    way: str, board: Adbd, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("adb", "adb_tcp"):
        monkeypatch.setattr(f"nasdeploy.device_agent.{module}.CONNECT_S", 0.5)
    board.kill_daemon()
    with pytest.raises(DeviceUnreachable, match="pixel"):
        OPENERS[way](board).info()


def test_a_serial_that_nobody_has_is_answered_with_where_to_look(adb_user: AdbServer) -> None:
    with pytest.raises(DeviceUnreachable, match=r"adb knows no device R5CT.*adb devices"):
        AdbDevice("R5CT").info()


@pytest.fixture
def server_that_says(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """An adb server with a device in a state that only a USB port can bring about."""
    listener = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setenv("ANDROID_ADB_SERVER_HOST", "127.0.0.1")
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(listener.getsockname()[1]))

    def answer(devices: str) -> None:
        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    request = connection.recv(int(connection.recv(4), 16))
                    assert request == b"host:devices"
                    connection.sendall(f"OKAY{len(devices):04x}{devices}".encode())

        threading.Thread(target=serve, daemon=True).start()

    yield answer
    listener.close()


@pytest.mark.parametrize(
    ("state", "advice", "passes"),
    [
        ("no permissions (missing udev rules?); see [http://x]", "android-sdk-platform", False),
        ("offline", "adb reconnect offline", True),
        ("bootloader", "fastboot reboot", False),
    ],
)
def test_each_state_has_its_own_advice(
    server_that_says: Callable[[str], None], state: str, advice: str, passes: bool
) -> None:
    server_that_says(f"R5CT\t{state}\n")
    with pytest.raises(DeviceError, match=advice) as caught:
        AdbDevice("R5CT").info()
    assert isinstance(caught.value, DeviceUnreachable) == passes
    assert list_attached()[0][1] in adb.ADVICE


def test_where_there_is_no_key_one_is_made_as_adb_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    first = user_key().GetPublicKey()
    private = tmp_path / ".android" / "adbkey"
    assert private.stat().st_mode & 0o077 == 0
    assert user_key().GetPublicKey() == first != b""
    private.write_text("not a key")
    with pytest.raises(DeviceError, match="is not a key that can be used"):
        user_key()
