"""Android's own C library: the NDK's compiler, and a runtime's library out of its Android archive.

The NDK is Google's compiler for Android. An archive (``.aar``, a zip) is how a runtime is published
for Android, on Maven; it has its library for each kind of processor at ``jni/ABI/NAME.so``.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from nasdeploy import durable
from nasdeploy.device_agent.runners.native.elf import read_library
from nasdeploy.device_agent.runners.native.folder import making
from nasdeploy.device_agent.runners.native.recipe import AndroidArchive, Recipe
from nasdeploy.device_agent.runners.native.toolchain import Toolchain, first_line
from nasdeploy.errors import BadInput, UsageError

HOME = "ANDROID_NDK_HOME"
OLDEST_API = 26
"""Android 8, from which on a runner starts; each version runs what was made for an older one."""

ABIS = {"aarch64": "arm64-v8a", "x86_64": "x86_64"}
"""What Android calls a processor, by what `uname -m` prints."""

_MOST_BYTES = 1 << 29
# the NDK's C++ library is on no phone, and a kernel with pages of 16 KiB loads nothing that is
# aligned to less
_FLAGS = ("-static-libstdc++", "-Wl,-z,max-page-size=16384")


@dataclass(frozen=True, slots=True)
class AndroidLibrary:
    """A runtime's library for Android.

    Attributes:
        path: Of the library itself.
        name: That programs load it by.
        version: Of the runtime, as far as the archive's name tells it; else what was given, by its
            content.
    """

    path: Path
    name: str
    version: str


def find_ndk(machine: str) -> Toolchain:
    """The compiler of the NDK in $ANDROID_NDK_HOME, for the oldest Android that we build for.

    Raises: `UsageError` that says what to set.
    """
    home = os.environ.get(HOME)
    if not home:
        raise UsageError(
            f"--runner ndk builds with Android's NDK, and {HOME} is not set. Set it to the NDK's "
            "folder (the one with toolchains/ in it), or leave --runner out: then the runner "
            "brings glibc along."
        )
    if machine not in ABIS:
        raise UsageError(f"Runners for Android are built for {' and '.join(ABIS)}, not {machine}.")
    named = re.compile(rf"{machine}-linux-android(\d+)-clang\+\+")
    found = {
        int(match[1]): path
        for path in Path(home).glob("toolchains/llvm/prebuilt/*/bin/*-clang++")
        if (match := named.fullmatch(path.name)) and int(match[1]) >= OLDEST_API
    }
    if not found:
        raise UsageError(
            f"{HOME} is {home}, which has no toolchains/llvm/prebuilt/*/bin/"
            f"{machine}-linux-android{OLDEST_API}-clang++. Set it to the folder of an NDK (r19 or "
            "later)."
        )
    compiler = str(found[min(found)])
    version = first_line(compiler, "--version")
    if version is None:
        raise UsageError(f"{compiler} cannot be run: is it an NDK for this kind of machine?")
    return Toolchain(machine, compiler, f"{version}, API {min(found)}", _FLAGS)


def archive_of(recipe: Recipe) -> AndroidArchive:
    """How a runtime is published for Android; `UsageError` where that can't be linked with."""
    if recipe.android is None:
        raise UsageError(
            f"{recipe.runtime}'s Android archive is for Java and has no C++ library to build "
            "against. Build its own executor_runner with the NDK and name that: --runner PATH; or "
            "leave --runner out."
        )
    return recipe.android


def android_library(path: str, recipe: Recipe, machine: str) -> AndroidLibrary:
    """A runtime's library for a machine, from an archive or as a file of its own.

    Raises: `UsageError` for a runtime that has none, a path that is no file, an archive without
        it, a library for another processor, and one of a version that our source is not for.
    """
    archive = archive_of(recipe)
    given = Path(path).expanduser()
    if not given.is_file():
        raise UsageError(
            f"There is no file {path}. {recipe.runtime} for Android is {archive.published} on "
            f"Maven; download it and name it: --runner ndk:{archive.published}"
        )
    version = _version(given, recipe, archive)
    zipped = zipfile.is_zipfile(given)
    library = read_library(found := _unpacked(given, archive, machine) if zipped else given)
    if library.machine != machine:
        raise UsageError(
            f"{given} is for {library.machine}, and the device is {machine}: name the library, or "
            f"the archive, for {ABIS[machine]}."
        )
    return AndroidLibrary(found, library.name or found.name, version)


def _version(given: Path, recipe: Recipe, archive: AndroidArchive) -> str:
    """From a name such as ``litert-2.3.0.aar``; checked where our source is for one version."""
    digest = durable.sha256_file(given)[:12]
    match = re.search(r"-(\d+\.\d+)(\.\d+)?[^/]*\.aar$", given.name)
    if match is None:
        return f"{archive.library} {digest}"
    ours = ".".join(recipe.version.split(".")[:2])
    if archive.same_version and match[1] != ours:
        raise UsageError(
            f"{given.name} is {recipe.runtime} {match[1]}, and the runner is written for {ours} "
            f"({recipe.package} {recipe.version}): its C interface changes between versions. Take "
            f"the archive of {ours}."
        )
    return f"{match[1]}{match[2] or ''} {digest}"


def _unpacked(given: Path, archive: AndroidArchive, machine: str) -> Path:
    """The library alone, once for each archive."""
    member = f"jni/{ABIS[machine]}/{archive.library}"
    folder = durable.cache_dir() / "android" / f"{durable.sha256_file(given)[:20]}-{machine}"
    library = folder / archive.library
    if library.is_file():
        return library
    try:
        with zipfile.ZipFile(given) as opened:
            names = opened.namelist()
            if member not in names:
                others = sorted(name for name in names if name.endswith(".so"))
                raise UsageError(
                    f"{given} has no {member}; its libraries are {', '.join(others[:8]) or 'none'}."
                    f" The archive that has it is {archive.published} on Maven."
                )
            if opened.getinfo(member).file_size > _MOST_BYTES:
                raise BadInput(f"{given} cannot be trusted: {member} is larger than 512 MiB.")
            with making(folder) as temporary:
                (temporary / archive.library).write_bytes(opened.read(member))
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise BadInput(f"{given} is damaged: {error}. Download it again.") from error
    return library
