"""Compiling a runner: once for each source, library, compiler and processor."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nasdeploy import durable
from nasdeploy.device_agent.runners.native.folder import making
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


def build_runner(
    recipe: Recipe, machine: str, *, own_c_library: bool, say: Callable[[str], None]
) -> Build:
    """The runner for a machine, from the cache if it is there.

    Args:
        own_c_library: Put glibc beside it, for a device whose C library is another or older.
        say: Told what takes a while: fetching a wheel, compiling (about 10 s).
    Raises: `UsageError` without a compiler, `NasdeployError` when it does not compile.
    """
    toolchain = find_toolchain(machine)
    wheel = wheel_folder(recipe, machine, say) if recipe.package else Path()
    libraries = {name: wheel / path for name, path in recipe.library_paths().items()}
    files = dict(libraries)
    if own_c_library:
        files.update(toolchain.c_library())
    identity = [
        *(recipe.source, machine, recipe.version, toolchain.version, _FLAGS, recipe.definitions),
        {path.name: durable.sha256_file(path) for path in _source_files(recipe)},
        {name: _digest(path, path.stat().st_mtime_ns) for name, path in sorted(files.items())},
    ]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    name = f"{Path(recipe.source).stem}-{machine}-{digest[:20]}"
    folder = durable.cache_dir() / "runners" / name
    if not folder.is_dir():
        say(f"Building the {recipe.runtime} runner for {machine}: about 10 seconds, once")
        with making(folder) as temporary:
            for name, path in files.items():
                shutil.copyfile(path, temporary / name)
            _compile(recipe, toolchain, wheel, libraries, temporary)
    return Build(folder, toolchain.loader if own_c_library else None)


@functools.cache
def _digest(path: Path, changed_ns: int) -> str:
    """Of a library, once for each process: they are tens of megabytes."""
    return durable.sha256_file(path)


def _source_files(recipe: Recipe) -> list[Path]:
    return [_SOURCES / recipe.source, *sorted(_SOURCES.glob("*.h"))]


def _compile(
    recipe: Recipe, toolchain: Toolchain, wheel: Path, libraries: dict[str, Path], folder: Path
) -> None:
    command = [
        *(toolchain.compiler, *_FLAGS, str(_SOURCES / recipe.source), "-o", str(folder / RUNNER)),
        *(part for headers in recipe.headers for part in ("-isystem", str(wheel / headers))),
        *(f"-D{definition}" for definition in recipe.definitions),
        f'-DRUNTIME_VERSION="{recipe.version}"',
        # some libraries only register what they can do, so that nothing seems to need them
        "-Wl,--no-as-needed",
        *(str(folder / name) for name in libraries),
        *("-Wl,-rpath,$ORIGIN", f"-Wl,-rpath-link,{folder}"),
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NasdeployError(f"{toolchain.compiler} could not be run: {error}") from error
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if "error" in line]
        reason = (errors or done.stderr.strip().splitlines() or ["it printed nothing"])[0]
        raise NasdeployError(
            f"The {recipe.runtime} runner does not compile with {toolchain.version} against "
            f"{recipe.package} {recipe.version}: {reason}. It was written for the versions that "
            "nasdeploy installs; install those, or ask for --runner python on this machine."
        )
