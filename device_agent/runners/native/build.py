"""Compiling a runner: once for each source, library, compiler and processor."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from nasdeploy import durable
from nasdeploy.device_agent.runners.native.folder import making
from nasdeploy.device_agent.runners.native.ndk import android_library, find_ndk
from nasdeploy.device_agent.runners.native.recipe import Recipe
from nasdeploy.device_agent.runners.native.toolchain import Toolchain, find_toolchain
from nasdeploy.device_agent.runners.native.wheels import wheel_folder
from nasdeploy.errors import NasdeployError

RUNNER = "runner"
_SOURCES = Path(__file__).parent
_FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-s")
_TIMEOUT_S = 300.0


@dataclass(frozen=True, slots=True)
class Build:
    """A folder with a runner and the libraries that it needs; all of it goes to the device.

    Attributes:
        loader: The file that starts it where the C library goes along, else None.
    """

    folder: Path
    loader: str | None

    @property
    def files(self) -> list[Path]:
        return sorted(self.folder.iterdir())


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a runner is made of.

    Attributes:
        version: Of the runtime, where its library does not tell it.
        libraries: That it is linked with, by the names that they are loaded by.
        others: That go along.
        headers: Folders that the compiler looks through.
        mend: What to do when it does not compile.
    """

    recipe: Recipe
    toolchain: Toolchain
    version: str
    libraries: dict[str, Path]
    mend: str
    others: dict[str, Path] = field(default_factory=dict)
    headers: tuple[Path, ...] = ()
    loader: str | None = None


def build_runner(
    recipe: Recipe, machine: str, *, own_c_library: bool, say: Callable[[str], None]
) -> Build:
    """The runner for a machine with glibc, or that gets it, from the cache if it is there.

    Args:
        own_c_library: Put glibc beside it, for a device whose C library is another or older.
        say: Told what takes a while: fetching a wheel, compiling (about 10 s).
    Raises: `UsageError` without a compiler, `NasdeployError` when it does not compile.
    """
    toolchain = find_toolchain(machine)
    wheel = wheel_folder(recipe, machine, say) if recipe.package else Path()
    parts = _Parts(
        recipe,
        toolchain,
        version=recipe.version,
        libraries={name: wheel / path for name, path in recipe.library_paths().items()},
        mend=(
            f"It was written for the {recipe.package} that nasdeploy installs, and this is "
            f"{recipe.version}; install that, or ask for --runner python on this machine."
        ),
        others=toolchain.c_library() if own_c_library else {},
        headers=tuple(wheel / headers for headers in recipe.headers),
        loader=toolchain.loader if own_c_library else None,
    )
    return _built(parts, say)


def build_for_android(
    recipe: Recipe, machine: str, library: str, *, say: Callable[[str], None]
) -> Build:
    """The runner for Android's own C library, by the NDK's compiler.

    Args:
        library: The path of the runtime's Android archive, or of the library in it.
    Raises: `UsageError` without an NDK or a library that fits, `NasdeployError` when it does not
        compile.
    """
    found = android_library(library, recipe, machine)
    parts = _Parts(
        recipe,
        find_ndk(machine),
        version=found.version,
        libraries={found.name: found.path},
        mend=f"See that {library} is {recipe.runtime} for Android, at about {recipe.version}.",
    )
    return _built(parts, say)


def _built(parts: _Parts, say: Callable[[str], None]) -> Build:
    recipe, toolchain = parts.recipe, parts.toolchain
    files = {**parts.libraries, **parts.others}
    identity = [
        *(recipe.source, toolchain.machine, parts.version, toolchain.version),
        *(_FLAGS, toolchain.flags, recipe.definitions),
        {path.name: durable.sha256_file(path) for path in _source_files(recipe)},
        {name: _digest(path, path.stat().st_mtime_ns) for name, path in sorted(files.items())},
    ]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    name = f"{Path(recipe.source).stem}-{toolchain.machine}-{digest[:20]}"
    folder = durable.cache_dir() / "runners" / name
    if not folder.is_dir():
        say(f"Building the {recipe.runtime} runner for {toolchain.machine}: about 10 seconds, once")
        with making(folder) as temporary:
            for name, path in files.items():
                shutil.copyfile(path, temporary / name)
            _compile(parts, temporary)
    return Build(folder, parts.loader)


@functools.cache
def _digest(path: Path, changed_ns: int) -> str:
    """Of a library, once for each process: they are tens of megabytes."""
    return durable.sha256_file(path)


def _source_files(recipe: Recipe) -> list[Path]:
    return [_SOURCES / recipe.source, *sorted(_SOURCES.glob("*.h"))]


def _compile(parts: _Parts, folder: Path) -> None:
    recipe, toolchain = parts.recipe, parts.toolchain
    command = [
        *(toolchain.compiler, *_FLAGS, *toolchain.flags),
        *(str(_SOURCES / recipe.source), "-o", str(folder / RUNNER)),
        *(part for headers in parts.headers for part in ("-isystem", str(headers))),
        *(f"-D{definition}" for definition in recipe.definitions),
        f'-DRUNTIME_VERSION="{parts.version}"',
        # some libraries only register what they can do, so that nothing seems to need them
        "-Wl,--no-as-needed",
        *(str(folder / name) for name in parts.libraries),
        *("-Wl,-rpath,$ORIGIN", f"-Wl,-rpath-link,{folder}"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NasdeployError(f"{toolchain.compiler} could not be run: {error}") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["it printed nothing"]
        telling = [line for line in lines if "error:" in line or "undefined" in line]
        raise NasdeployError(
            f"The {recipe.runtime} runner does not compile with {toolchain.version}: "
            f"{(telling or lines)[0].strip()}. {parts.mend}"
        )
