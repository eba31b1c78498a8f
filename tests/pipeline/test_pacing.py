"""Several profiles at once: exports one after another, and this machine measured after them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.simulated import SimulatedDevice
from nasdeploy.pipeline.stages.pacing import SharedPacing

PATIENCE_S = 20


@pytest.fixture
def remote(tmp_path: Path) -> SimulatedDevice:
    return SimulatedDevice("sim:x", "x", {}, workdir=tmp_path / "remote")


@pytest.fixture
def here(tmp_path: Path) -> LocalDevice:
    return LocalDevice(tmp_path / "here")


@pytest.fixture
def start() -> Iterator[Callable[[Callable[[], None]], threading.Thread]]:
    """Start a thread; all have ended when the test has."""
    threads: list[threading.Thread] = []

    def begin(work: Callable[[], None]) -> threading.Thread:
        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return threads[-1]

    yield begin
    for thread in threads:
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


def test_exports_take_turns(
    remote: SimulatedDevice, here: LocalDevice, start: Callable[..., threading.Thread]
) -> None:
    pacing = SharedPacing([remote, here], threading.Event())
    at_once, most = 0, 0
    inside, go_on = threading.Event(), threading.Event()

    def export(device: LocalDevice | SimulatedDevice) -> None:
        nonlocal at_once, most
        with pacing.exporting(device):
            at_once += 1
            most = max(most, at_once)
            inside.set()
            assert go_on.wait(PATIENCE_S)
            at_once -= 1

    threads = [start(lambda device=device: export(device)) for device in (remote, here)]
    assert inside.wait(PATIENCE_S)
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert most == 1


def test_a_remote_device_is_measured_while_others_are_exported_for(
    remote: SimulatedDevice, here: LocalDevice
) -> None:
    pacing = SharedPacing([remote, here], threading.Event())
    with pacing.exporting(here):
        pacing.before_measuring(remote)


def test_this_machine_waits_until_all_have_their_files(
    remote: SimulatedDevice, here: LocalDevice, start: Callable[..., threading.Thread]
) -> None:
    pacing = SharedPacing([remote, here], threading.Event())
    measuring = threading.Event()

    def measure() -> None:
        pacing.before_measuring(here)
        measuring.set()

    with pacing.exporting(here):
        pass
    start(measure)
    with pacing.exporting(remote):
        assert not measuring.wait(0.5)
    assert measuring.wait(PATIENCE_S)


def test_one_that_failed_before_its_exports_holds_nobody_up(
    remote: SimulatedDevice, here: LocalDevice
) -> None:
    pacing = SharedPacing([remote, here], threading.Event())
    pacing.needs_no_more(remote)
    with pacing.exporting(here):
        pass
    pacing.before_measuring(here)


def test_stopping_ends_the_waiting(remote: SimulatedDevice, here: LocalDevice) -> None:
    stop = threading.Event()
    stop.set()
    pacing = SharedPacing([remote, here], stop)
    with pytest.raises(KeyboardInterrupt):
        pacing.before_measuring(here)
    with pacing.exporting(remote), pytest.raises(KeyboardInterrupt), pacing.exporting(here):
        pytest.fail("two export at once")
