"""Libraries and headers from a runtime's wheel: the installed one, or that of another machine."""

from __future__ import annotations

import importlib.util
import platform
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from nasdeploy.device_agent.runners.native.folder import making
from nasdeploy.device_agent.runners.native.recipe import Recipe
from nasdeploy.durable import cache_dir
from nasdeploy.errors import NasdeployError, UsageError

_DOWNLOAD_TIMEOUT_S = 900.0
_MOST_BYTES = 1 << 30
# libraries for older C libraries run with newer ones; 2.36 is Debian 12's, and the cross compiler's
_OLDEST, _NEWEST = 17, 36


def wheel_folder(recipe: Recipe, machine: str, say: Callable[[str], None]) -> Path:
    """A folder with what `recipe` needs of its wheel, at the paths that the wheel has.

    For this machine's own architecture that is where the package is installed. For another the
    wheel of the same version is fetched with pip, once, and what is needed is unpacked into the
    cache.

    Args:
        machine: As `uname -m` prints it.
    Raises: `UsageError` when there is no such wheel, `NasdeployError` when it cannot be fetched.
    """
    if machine == platform.machine():
        return _installed(recipe)
    folder = cache_dir() / "wheels" / f"{recipe.package}-{recipe.version}-{machine}"
    if not folder.is_dir():
        say(f"Fetching {recipe.package} {recipe.version} for {machine}")
        with tempfile.TemporaryDirectory() as name, making(folder) as temporary:
            _unpack(_download(recipe, machine, Path(name)), recipe, temporary)
    return folder


def _installed(recipe: Recipe) -> Path:
    top = next(iter(recipe.libraries.values())).split("/", 1)[0]
    spec = importlib.util.find_spec(top)
    places = list(spec.submodule_search_locations or ()) if spec else []
    wanted = recipe.library_paths().values()
    for place in places:
        folder = Path(place).parent
        if all((folder / path).is_file() for path in wanted):
            return folder
    raise UsageError(
        f"The installed {recipe.package} {recipe.version} does not have "
        f"{', '.join(wanted)}. Install its wheel: pip install --force-reinstall "
        f"{recipe.package}=={recipe.version}"
    )


def _download(recipe: Recipe, machine: str, folder: Path) -> Path:
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in range(_NEWEST, _OLDEST - 1, -1)]
    command = [
        *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"),
        *("--only-binary", ":all:", "--no-deps", "--dest", str(folder)),
        *("--python-version", f"{sys.version_info.major}.{sys.version_info.minor}"),
        *(
            part
            for name in (*platforms, f"manylinux2014_{machine}")
            for part in ("--platform", name)
        ),
        f"{recipe.package}=={recipe.version}",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NasdeployError(
            f"pip could not fetch {recipe.package} for {machine}: {error}"
        ) from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = (lines or done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise NasdeployError(
            f"pip found no {recipe.package} {recipe.version} for {machine}: {reason}. The runner "
            f"of {recipe.runtime} is built from it; see that the package index can be reached and "
            "run the same command again."
        )
    return wheels[0]


def _unpack(wheel: Path, recipe: Recipe, folder: Path) -> None:
    """Only what is needed, and only to where it belongs."""
    libraries = set(recipe.library_paths().values())
    taken_bytes = 0
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            path = PurePosixPath(member.filename)
            wanted = member.filename in libraries or any(
                path.is_relative_to(headers) for headers in recipe.headers
            )
            if not wanted or member.is_dir():
                continue
            taken_bytes += member.file_size
            if path.is_absolute() or ".." in path.parts or taken_bytes > _MOST_BYTES:
                raise NasdeployError(f"{wheel.name} is not a wheel that can be trusted: {path}")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(member))
    missing = sorted(path for path in libraries if not (folder / path).is_file())
    if missing:
        raise UsageError(f"{wheel.name} does not have {', '.join(missing)}.")
