"""When a profile may use this machine, where several devices are profiled at once.

Exports use all of this machine, so one device's run at a time; the next ones find in the cache
what is for the same kind of device. A remote device is measured while others' files are still
being exported; this machine only when all of that is over, since it would time the exports.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.local import LocalDevice

_LOOK_AGAIN_S = 0.2


class Pacing:
    """Of a profile by itself: nothing to wait for."""

    @contextlib.contextmanager
    def exporting(self, device: Device) -> Iterator[None]:
        """Around a device's exports."""
        yield

    def before_measuring(self, device: Device) -> None:
        """Wait until it may be measured."""


class SharedPacing(Pacing):
    """Of several profiles, each in a thread of its own.

    Args:
        stop: When it is set, waiting ends with `KeyboardInterrupt`.
    """

    def __init__(self, devices: list[Device], stop: threading.Event) -> None:
        self._without_files = {device.place for device in devices}
        self._stop = stop
        self._exporting = threading.Lock()

    @contextlib.contextmanager
    def exporting(self, device: Device) -> Iterator[None]:
        while not self._exporting.acquire(timeout=_LOOK_AGAIN_S):
            self._check_stop()
        try:
            yield
        finally:
            self._exporting.release()
        self.needs_no_more(device)

    def needs_no_more(self, device: Device) -> None:
        """Its files are exported, or it failed before that."""
        self._without_files.discard(device.place)

    def before_measuring(self, device: Device) -> None:
        while isinstance(device, LocalDevice) and self._without_files:
            self._check_stop()
            self._stop.wait(_LOOK_AGAIN_S)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
