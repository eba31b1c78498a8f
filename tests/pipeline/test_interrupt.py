"""Ctrl-C: one line, exit code 130, nothing left running, and the same command goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from small_run import start

from nasdeploy.pipeline.cli import main

pytestmark = pytest.mark.slow


def interrupted(process: subprocess.Popen[str], marker: str) -> str:
    """Press Ctrl-C once `marker` was said, as a terminal does: to the whole process group."""
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if marker in line:
            break
    time.sleep(0.7)
    os.killpg(process.pid, signal.SIGINT)
    _, rest = process.communicate(timeout=30)
    return "".join(said) + rest


def still_running(group: int) -> bool:
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.1)
    return True


@pytest.mark.parametrize(
    ("command", "marker"),
    [
        (("run", "tiny.yaml", "--seed", "1"), "Loading torch"),
        (("run", "tiny.yaml", "--seed", "1"), "Profiling"),
        (("train", "--epochs", "400"), "Training the winner"),
        (
            ("bench", "runs/tiny/winner/winner-onnxruntime-fp32.onnx", "--samples", "999999"),
            "Measuring",
        ),
    ],
    ids=["imports", "profile", "train", "bench"],
)
def test_ctrl_c_ends_in_one_line(
    finished: Path, tmp_path: Path, command: tuple[str, ...], marker: str
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(finished, folder)
    process = start(*command, folder=folder)
    said = interrupted(process, marker)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    last = said.splitlines()[-1]
    assert last.startswith("Interrupted.")
    assert not still_running(process.pid)
    assert not list((folder / "runs").rglob("*.part"))


def test_what_fails_since_an_extension_swallowed_the_interrupt_ends_like_any_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # numpy and torch, loaded by each other, were seen to do so
    def run() -> int:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise ImportError("cannot load module more than once per process")

    monkeypatch.setattr("nasdeploy.pipeline.cli._run", run)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert capsys.readouterr().err.startswith("Interrupted.")
    assert signal.getsignal(signal.SIGINT) is handler
