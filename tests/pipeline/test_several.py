"""Several devices profiled at once, and searching on times that are no measurement."""

from __future__ import annotations

import json
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_run import SPACE, Cli, small_space, write_small_table

from nasdeploy.errors import DeviceUnreachable, UsageError
from nasdeploy.latency_tables.table import LatencyTable, read_table
from nasdeploy.pipeline import several
from nasdeploy.pipeline.config import make_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.several import Profile, profile_all
from nasdeploy.pipeline.stages.context import Context

PROFILE = ("profile", "--samples", "10", "--duration-s", "0.1", "--anchors", "3", "--workers", "1")


@pytest.fixture(autouse=True)
def toy(folder: Path) -> None:
    """Two devices with the times of a table of ours."""
    write_small_table(folder / "tables" / "toy.yaml")
    quick = {"address": "sim:toy", "simulation": {"pace": 0}}
    (folder / "devices.yaml").write_text(yaml.safe_dump({"one": quick, "two": quick}))


def asked(*names: str) -> list[Profile]:
    return [
        Profile(
            make_config({"device": name, "data": "none"}, source="test"),
            small_space(), Path(f"{name}.yaml"), resume=False, overwrite=False,
        )
        for name in names
    ]  # fmt: skip


def press_ctrl_c() -> None:
    """A signal, which the main thread is woken by, as `_thread.interrupt_main` would not do."""
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


def test_one_that_fails_stops_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(context: Context, *args: Any, **kwargs: Any) -> LatencyTable:
        if context.device.name == "one":
            raise DeviceUnreachable("the cable was pulled.")
        context.console.log("measured")
        return LatencyTable(device="two", runtime="litert", precision="int8")

    monkeypatch.setattr(several, "profile", measure)
    one, two = profile_all(asked("one", "two"), Console())
    assert (one.exit_code, two.exit_code) == (4, 0)
    assert one.facts() == {"name": "one", "exit": 4, "error": "the cable was pulled."}
    assert two.measured is not None
    said = capsys.readouterr().err
    assert "error: one: the cable was pulled." in said
    assert "two: measured" in said


def test_a_fault_of_ours_is_raised_when_the_others_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended: list[str] = []

    def measure(context: Context, *args: Any, **kwargs: Any) -> LatencyTable:
        if context.device.name == "one":
            raise ZeroDivisionError
        ended.append(context.device.name)
        return LatencyTable(device="two", runtime="litert", precision="int8")

    monkeypatch.setattr(several, "profile", measure)
    with pytest.raises(ZeroDivisionError):
        profile_all(asked("one", "two"), Console(quiet=True))
    assert ended == ["two"]


def test_an_interruption_ends_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    both = threading.Barrier(2)

    def measure(context: Context, *args: Any, **kwargs: Any) -> LatencyTable:
        try:
            both.wait(20)
            with context.console.progress("Measuring") as update:
                if context.device.name == "one":
                    press_ctrl_c()
                while True:
                    update(0, 1)
                    threading.Event().wait(0.01)
        finally:
            ended.append(context.device.name)

    monkeypatch.setattr(several, "profile", measure)
    with pytest.raises(KeyboardInterrupt):
        profile_all(asked("one", "two"), Console(quiet=True))
    assert sorted(ended) == ["one", "two"]


def test_a_silent_device_does_not_hold_up_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    both = threading.Barrier(2)
    answer = threading.Event()

    def measure(context: Context, *args: Any, **kwargs: Any) -> LatencyTable:
        both.wait(20)
        if context.device.name == "two":
            answer.wait(60)
            return LatencyTable(device="two", runtime="litert", precision="int8")
        press_ctrl_c()
        with context.console.progress("Measuring") as update:
            while True:
                update(0, 1)
                threading.Event().wait(0.01)

    monkeypatch.setattr(several, "profile", measure)
    monkeypatch.setattr(several, "LAST_WORDS_S", 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            profile_all(asked("one", "two"), Console())
        said = capsys.readouterr().err
        assert "one does not answer" not in said
        assert "two does not answer and is left as it is." in said
    finally:
        answer.set()


def test_two_names_of_one_device_are_refused(folder: Path) -> None:
    names = {"here": {"address": "local"}, "again": {"address": "local"}}
    (folder / "devices.yaml").write_text(yaml.safe_dump(names))
    with pytest.raises(UsageError, match="are the same device"):
        profile_all(asked("here", "again"), Console(quiet=True))


def test_one_table_is_not_for_several_devices(cli: Cli) -> None:
    ended = cli("profile", "--device", "one", "--device", "two", "--table", "x.yaml")
    assert ended.code == 2
    assert "each of several devices has its own" in ended.err


def test_a_run_on_a_simulated_device_is_refused_before_anything_is_done(
    cli: Cli, folder: Path
) -> None:
    values = {"data": "tiny.npz", "space": SPACE, "bounds": {"latency": "40%"}}
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    ended = cli("run", "run.yaml", "--device", "one")
    assert ended.code == 2
    assert "The device one is simulated" in ended.err
    assert "--allow-simulated" in ended.err
    assert not (folder / "runs").exists()


@pytest.mark.slow
def test_devices_are_profiled_together_and_searched_on_when_told(
    finished: Path, folder: Path, cli: Cli
) -> None:
    """The exports are those of the run that is shared."""
    shutil.copy(finished / "tiny.npz", folder / "images.npz")
    project = {
        "data": "images.npz", "runtime": "onnxruntime", "precision": "fp32",
        "space": {**SPACE, "input_shape": [1, 28, 28], "classes": 10},
        "profile": {"min_samples": 10, "min_duration_s": 0.1},
        "verify": {"min_samples": 10, "min_duration_s": 0.1, "wait_s": 2},
    }  # fmt: skip
    (folder / "nasdeploy.yaml").write_text(yaml.safe_dump(project))
    gone = "ssh:nobody@127.0.0.1:1"
    ended = cli(
        *PROFILE, "--device", "one", "--device", "two", "--device", gone, "--format", "json"
    )
    assert ended.code == 4, ended.err
    one, two, lost = json.loads(ended.out)
    assert (one["origin"], two["origin"]) == ("simulated", "simulated")
    assert "does not answer" in lost["error"]
    assert f"error: {gone}: " in ended.err
    table = read_table(Path(one["table"]))
    assert table.origin == "simulated"
    toy = read_table(Path("tables/toy.yaml"))
    for key, ms in table.values("median").items():
        assert ms == pytest.approx(toy.ops[key].value("median"), rel=0.1)

    search = ("search", "--latency", "60%", "--device", "one", "--strategy", "random")
    refused = cli(*search)
    assert refused.code == 2
    assert "is simulated" in refused.err
    found = cli(*search, "--trials", "4", "--allow-simulated", "--format", "json")
    assert found.code == 0, found.err
    assert json.loads(found.out)["candidate"]["origin"] == "simulated"
    shown = cli(*search, "--trials", "4", "--allow-simulated")
    assert "untrained, simulated" in shown.out
