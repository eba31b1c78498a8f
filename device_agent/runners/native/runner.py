"""A native runner as the rest sees it: built here, pushed with its libraries, started there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from nasdeploy.device_agent.device import Device, DeviceInfo
from nasdeploy.device_agent.runners.native.build import (
    RUNNER,
    Build,
    build_for_android,
    build_runner,
)
from nasdeploy.device_agent.runners.native.ndk import OLDEST_API
from nasdeploy.device_agent.runners.native.recipe import Recipe
from nasdeploy.errors import CommandFailed, UsageError

_TIMEOUT_S = 120.0
_GLIBC_NAME = re.compile(r"\blib(c|m|dl|rt|pthread|stdc\+\+)\.so\.\d")  # Android's have no number
_TOO_OLD = ("GLIBC", "not found", "No such file")


@dataclass(frozen=True, slots=True)
class _Place:
    """What counts of a device here; it doesn't change, and asking a phone takes a while."""

    machine: str
    c_library: Literal["its own", "glibc", "bionic"]


@dataclass(frozen=True, slots=True)
class NativeRunner:
    """One runtime's runner, for any device with a processor that there are wheels for.

    Attributes:
        own_c_library: Bring glibc along for every device; for Android it is always brought,
            since Android has another C library than the wheels are made for.
        android_library: Use Android's own C library, bionic, with this Android archive or library.
        say: Told what takes a while.
    """

    recipe: Recipe
    own_c_library: bool = False
    android_library: str | None = None
    say: Callable[[str], None] = lambda text: None
    _places: dict[str, _Place] = field(default_factory=dict, compare=False, repr=False)
    _builds: dict[_Place, Build] = field(default_factory=dict, compare=False, repr=False)

    @property
    def runtime(self) -> str:
        return self.recipe.runtime

    @property
    def suffix(self) -> str:
        return self.recipe.suffix

    def kind(self, device: Device) -> str:
        c_library = self._place(device).c_library
        return "native" if c_library == "its own" else f"native, libc={c_library}"

    def prepare(self, device: Device) -> None:
        """Push what is not there yet; a device skips files that it has."""
        build = self._build(device)
        folder = _remote(device, build)
        device.push_all([(path, f"{folder}/{path.name}") for path in build.files])
        programs = [f"{folder}/{name}" for name in (RUNNER, build.loader) if name]
        done = device.run(["chmod", "755", *programs], timeout_s=_TIMEOUT_S)
        if done.exit_code != 0:
            raise CommandFailed(
                f"{folder} on {device.name} cannot hold programs: {done.stderr.strip()}."
            )

    def check(self, device: Device) -> str:
        self.prepare(device)
        done = device.run(self.argv(device, "--version"), timeout_s=_TIMEOUT_S)
        if done.exit_code == 0:
            try:
                return str(json.loads(done.stdout)["version"])
            except (ValueError, KeyError, TypeError) as error:
                raise CommandFailed(
                    f"The {self.runtime} runner on {device.name} said {done.stdout[:200]!r} where "
                    "its version was due."
                ) from error
        lines = done.stderr.strip().splitlines() or ["nothing was printed"]
        raise CommandFailed(
            f"The {self.runtime} runner does not start on {device.name}: {lines[-1]}."
            f"{self._advice(device, done.stderr)}"
        )

    def _advice(self, device: Device, stderr: str) -> str:
        c_library = self._place(device).c_library
        if c_library == "bionic" and _GLIBC_NAME.search(stderr):
            return " That library is made for glibc: take it out of the runtime's Android archive."
        if c_library != "its own" or not any(sign in stderr for sign in _TOO_OLD):
            return ""
        return (
            " Its C library is another one, or older than this machine's: ask for "
            "--runner native+glibc, which brings its own."
        )

    def argv(self, device: Device, job: str) -> Sequence[str]:
        build = self._build(device)
        folder = _remote(device, build)
        if build.loader is None:
            return (f"{folder}/{RUNNER}", job)
        loader = f"{folder}/{build.loader}"
        return (loader, "--library-path", folder, f"{folder}/{RUNNER}", job)

    def _place(self, device: Device) -> _Place:
        if device.name not in self._places:
            info = device.info()
            self._places[device.name] = _Place(info.machine, self._c_library(device.name, info))
        return self._places[device.name]

    def _c_library(self, name: str, info: DeviceInfo) -> Literal["its own", "glibc", "bionic"]:
        android = info.extra.get("platform") == "android"
        if self.android_library is None:
            return "glibc" if self.own_c_library or android else "its own"
        if not android:
            raise UsageError(f"--runner ndk is for Android, and {name} has none: leave it out.")
        version = str(info.extra.get("sdk", ""))
        if version.isdecimal() and int(version) < OLDEST_API:
            raise UsageError(
                f"--runner ndk builds for Android's API {OLDEST_API} (Android 8) and later, and "
                f"{name} has {version}: leave --runner out."
            )
        return "bionic"

    def _build(self, device: Device) -> Build:
        """Once, so that what is started is what was pushed."""
        place = self._place(device)
        if place not in self._builds:
            self._builds[place] = self._made(place)
        return self._builds[place]

    def _made(self, place: _Place) -> Build:
        if self.android_library is not None:
            return build_for_android(self.recipe, place.machine, self.android_library, say=self.say)
        own = place.c_library == "glibc"
        return build_runner(self.recipe, place.machine, own_c_library=own, say=self.say)


def _remote(device: Device, build: Build) -> str:
    return f"{device.workdir}/runners/{build.folder.name}"
