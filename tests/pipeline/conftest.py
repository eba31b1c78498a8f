"""The command line as a user has it, in a folder of its own and with a cache of its own."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import Cli, Ended, start, write_config, write_tiny_npz


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, builds: Path) -> Iterator[Path]:
    """No test meets what the user has exported, and nothing of ours is left in the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    for built in builds.iterdir():
        (folder / built.name).symlink_to(built)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NASDEPLOY_CACHE", str(folder))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    write_tiny_npz(path)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A folder in which ``nasdeploy run tiny.yaml`` ended well; it takes a while, and is shared by
    all processes that run tests."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder = base / "finished"
    with (base / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "out.json").exists():
            _finish(folder)
    return folder


def _finish(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    write_tiny_npz(folder / "tiny.npz")
    write_config(folder / "tiny.yaml", train={"random_baselines": 1})
    process = start("run", "tiny.yaml", "--format", "json", folder=folder)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    (folder / "err.txt").write_text(err)
    (folder / "out.json").write_text(out)


@pytest.fixture
def folder(tmp_path: Path, tiny_npz: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder but for the images."""
    (tmp_path / "tiny.npz").symlink_to(tiny_npz)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process, through the door that the installed script takes.

    No phone is attached, and no adb server is started to look for one.
    """
    from nasdeploy.pipeline.cli import main

    monkeypatch.setattr("nasdeploy.device_agent.adb.list_attached", list)

    def call(*arguments: str | Path) -> Ended:
        monkeypatch.setattr(sys, "argv", ["nasdeploy", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        written = capfd.readouterr()
        assert isinstance(end.value.code, int)
        return Ended(end.value.code, written.out, written.err)

    return call
