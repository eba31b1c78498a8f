"""Runners for Android's own C library: an NDK's folder, a runtime's archive, and what may be amiss.

There is neither an NDK nor that C library here. A folder laid out like an NDK's holds a script that
starts what an NDK is made of, clang with lld and libc++, and the archives hold the libraries of the
wheels; all else is what a user gets: the runner is built, pushed and started.
"""

from __future__ import annotations

import platform
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from targets.daemons import need

from nasdeploy.device_agent.device import DeviceInfo
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.runners.native.elf import read_library
from nasdeploy.device_agent.runners.native.ndk import ABIS, HOME, android_library, find_ndk
from nasdeploy.device_agent.runners.native.recipe import RECIPES
from nasdeploy.device_agent.runners.native.wheels import wheel_folder
from nasdeploy.device_agent.runners.runner import open_runner
from nasdeploy.errors import BadInput, CommandFailed, NasdeployError, UsageError

HERE = platform.machine()
OTHER = next(machine for machine in ABIS if machine != HERE)


@pytest.fixture
def ndk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The compilers' folder of what ANDROID_NDK_HOME names."""
    need("clang++", "ld.lld", boxed=False)
    folder = tmp_path / "ndk" / "toolchains/llvm/prebuilt/linux-x86_64/bin"
    folder.mkdir(parents=True)
    for api in (21, 35, 26, 30):
        compiler = folder / f"{HERE}-linux-android{api}-clang++"
        compiler.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && echo stands for clang {api} && exit\n'
            'exec clang++ -stdlib=libc++ -fuse-ld=lld "$@"\n'
        )
        compiler.chmod(0o755)
    monkeypatch.setenv(HOME, str(tmp_path / "ndk"))
    return folder


def archive(path: Path, runtime: str, library: Path, *abis: str) -> Path:
    """What is published for Android: the library for some processors, among other files."""
    known = RECIPES[runtime].android
    assert known is not None
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("AndroidManifest.xml", "<manifest/>")
        opened.writestr("classes.jar", b"")
        for abi in abis or (ABIS[HERE],):
            opened.write(library, f"jni/{abi}/{known.library}")
    return path


def wheel_library(runtime: str) -> Path:
    recipe = RECIPES[runtime]
    (path,) = recipe.library_paths().values()
    return wheel_folder(recipe, HERE, print) / path


class Phone(LocalDevice):
    """This machine, saying that it is a phone."""

    name = "phone"
    sdk = "34"

    def info(self) -> DeviceInfo:
        return replace(super().info(), extra={"platform": "android", "sdk": self.sdk})


@pytest.fixture
def handset(local: LocalDevice, tmp_path: Path) -> Phone:
    return Phone(tmp_path / "phone")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runtime", "published", "version"),
    [
        ("onnxruntime", "onnxruntime-android-1.0.0.aar", RECIPES["onnxruntime"].version),
        ("litert", f"litert-{RECIPES['litert'].version}.aar", f"{RECIPES['litert'].version} "),
    ],
)
def test_it_is_built_from_a_runtime_s_archive_and_runs(
    runtime: str, published: str, version: str, ndk: Path, handset: Phone, tmp_path: Path
) -> None:
    """ONNX Runtime says its version itself; of LiteRT's it is the archive's that counts."""
    made = archive(tmp_path / published, runtime, wheel_library(runtime))
    runner = open_runner(runtime, f"ndk:{made}")
    assert runner.kind(handset) == "native, libc=bionic"
    assert runner.check(handset).startswith(version)
    program, job = runner.argv(handset, "job.json")
    assert job == "job.json"
    folder = Path(program).parent
    assert {path.name for path in folder.iterdir()} == {
        "runner",
        str(read_library(wheel_library(runtime)).name),
    }


@pytest.mark.slow
def test_it_is_pushed_to_a_phone_and_computes_what_the_native_one_does(
    ndk: Path,
    connect: Callable[[str], Any],
    local: LocalDevice,
    onnx_files: Path,
    tmp_path: Path,
) -> None:
    import numpy as np

    from nasdeploy.device_agent.outputs import run_outputs

    device = connect("adb on a phone").device
    library = wheel_library("onnxruntime")
    runner = open_runner("onnxruntime", f"ndk:{library}")
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 8)).astype(np.float32)
    (there,) = run_outputs(device, runner, onnx_files / "small.onnx", [x])
    (here,) = run_outputs(local, open_runner("onnxruntime"), onnx_files / "small.onnx", [x])
    np.testing.assert_array_equal(there, here)


def test_the_oldest_android_that_is_built_for_is_taken(ndk: Path) -> None:
    toolchain = find_ndk(HERE)
    assert Path(toolchain.compiler).name == f"{HERE}-linux-android26-clang++"
    assert toolchain.version == "stands for clang 26, API 26"


def test_without_an_ndk_it_says_what_to_set(
    ndk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=f"{OTHER}-linux-android26-clang.*Set it to the folder of"):
        find_ndk(OTHER)
    monkeypatch.setenv(HOME, str(tmp_path))
    with pytest.raises(UsageError, match=r"has no toolchains/llvm/prebuilt.*Set it to the folder"):
        find_ndk(HERE)
    monkeypatch.delenv(HOME)
    with pytest.raises(UsageError, match=r"ANDROID_NDK_HOME is not set.*or leave --runner out"):
        find_ndk(HERE)


def test_a_compiler_for_another_machine_is_named(ndk: Path) -> None:
    (ndk / f"{HERE}-linux-android26-clang++").write_text("#!/nowhere/sh\n")
    with pytest.raises(UsageError, match="cannot be run: is it an NDK for this kind of machine"):
        find_ndk(HERE)


def test_a_runtime_without_a_library_for_android_says_what_to_do() -> None:
    with pytest.raises(UsageError, match=r"--runner ndk:onnxruntime-android-VERSION\.aar"):
        open_runner("onnxruntime", "ndk")
    with pytest.raises(UsageError, match=r"for Java.*executor_runner with the NDK"):
        open_runner("executorch", "ndk:x.aar")


def test_an_archive_that_does_not_fit_is_refused(local: LocalDevice, tmp_path: Path) -> None:
    """By its runtime, its processors, its version, its content."""

    def refused(path: Path, runtime: str, match: str, kind: type[NasdeployError]) -> None:
        with pytest.raises(kind, match=match):
            android_library(str(path), RECIPES[runtime], HERE)

    small = tmp_path / "small.so"
    small.write_bytes(b"\x7fELF")
    there = archive(tmp_path / "a.aar", "litert", small, ABIS[OTHER])
    refused(there, "litert", f"has no jni/{ABIS[HERE]}/libLiteRt.so; its libraries are", UsageError)
    refused(there, "onnxruntime", r"has it is onnxruntime-android-VERSION\.aar", UsageError)
    refused(tmp_path / "no.aar", "litert", r"no file .*no\.aar.*litert-VERSION\.aar", UsageError)
    old = archive(tmp_path / "litert-1.0.1.aar", "litert", small)
    refused(old, "litert", r"is litert 1\.0, and the runner is written for 2\.3", UsageError)
    refused(small, "litert", "no shared library", BadInput)
    (tmp_path / "text.aar").write_text("not found\n")
    refused(tmp_path / "text.aar", "litert", "it does not begin like one", BadInput)
    torn = bytearray(archive(tmp_path / "t.aar", "litert", wheel_library("litert")).read_bytes())
    torn[len(torn) // 2] ^= 255
    (tmp_path / "torn.aar").write_bytes(torn)
    refused(tmp_path / "torn.aar", "litert", "is damaged.*Download it again", BadInput)
    assert not (tmp_path / "cache" / "android").exists() or not list(
        (tmp_path / "cache" / "android").iterdir()
    )


def test_a_library_for_another_processor_is_refused(local: LocalDevice, tmp_path: Path) -> None:
    content = bytearray(wheel_library("litert").read_bytes())
    content[18:20] = (8).to_bytes(2, "little")
    other = tmp_path / "libLiteRt.so"
    other.write_bytes(content)
    with pytest.raises(UsageError, match=f"is for processor number 8, and the device is {HERE}"):
        android_library(str(other), RECIPES["litert"], HERE)


def test_only_an_android_that_is_new_enough_gets_one(
    ndk: Path, local: LocalDevice, handset: Phone, tmp_path: Path
) -> None:
    runner = open_runner("litert", f"ndk:{tmp_path}/litert.aar")
    with pytest.raises(UsageError, match="is for Android, and local has none"):
        runner.kind(local)
    handset.sdk = "25"
    with pytest.raises(UsageError, match=r"API 26 .* and phone has 25"):
        runner.kind(handset)


@pytest.mark.slow
def test_a_library_without_what_the_runner_calls_says_which_one_to_take(
    ndk: Path, handset: Phone
) -> None:
    with pytest.raises(NasdeployError, match=r"undefined symbol: LiteRt.*See that .* for Android"):
        open_runner("litert", f"ndk:{wheel_library('onnxruntime')}").prepare(handset)


@pytest.mark.slow
def test_a_library_that_is_made_for_glibc_is_told_from_what_a_phone_says(
    ndk: Path, handset: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words are those of Android's loader."""
    runner = open_runner("onnxruntime", f"ndk:{wheel_library('onnxruntime')}")
    program = Path(runner.argv(handset, "job")[0])
    runner.prepare(handset)
    program.unlink()
    program.write_text(
        '#!/bin/sh\necho "CANNOT LINK EXECUTABLE \\"./runner\\": library \\"libc.so.6\\" not found:'
        ' needed by ./libonnxruntime.so in namespace (default)" >&2\nexit 1\n'
    )
    monkeypatch.setattr(handset, "push_all", lambda files: None)
    with pytest.raises(CommandFailed, match="made for glibc: take it out of the runtime's Android"):
        runner.check(handset)
