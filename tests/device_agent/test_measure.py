"""The protocol, on ONNX Runtime itself and on a runner that is told what to say."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.measure import MeasureConfig, measure
from nasdeploy.device_agent.runners.runner import Runner, open_runner
from nasdeploy.device_agent.session import Session
from nasdeploy.durable import Journal, read_jsonl
from nasdeploy.errors import BadInput, CommandFailed, DeviceError, UsageError

Measure = Callable[..., Session]
GraphOf = Callable[[str], Graph]
Scripted = Callable[[str], Runner]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


@pytest.fixture
def run(local: LocalDevice, graph: GraphOf, quick: MeasureConfig, journal: Path) -> Measure:
    """`measure` with what the test doesn't care about filled in."""

    def call(*names: str, runner: Runner | None = None, **overrides: Any) -> Session:
        settings = {
            "sentinel": graph("sentinel"),
            "empty": graph("empty"),
            "config": quick,
            "journal": Journal(journal),
            "seed": 7,
            **overrides,
        }
        graphs = [graph(name) for name in names]
        return measure(local, runner or open_runner("onnxruntime"), graphs, **settings)

    return call


def rounds_in(journal: Path, event: str = "round") -> list[dict[str, Any]]:
    return [entry for entry in read_jsonl(journal) if entry["event"] == event]


def test_every_graph_gets_its_samples(run: Measure) -> None:
    session = run("small", "large")
    assert session.samples["small"].wall_ms.shape == (6, 3)
    assert session.samples["sentinel"].wall_ms.shape == (6, 9)
    assert session.statistics("small").n == 12
    assert session.starts == 2 and session.rejected == 0
    thread_ms = session.samples["large"].thread_ms
    assert thread_ms is not None and thread_ms.shape == (6, 3)
    assert session.peak_rss_bytes > 10_000_000
    assert session.load_ms["large"] > 0


def test_more_work_takes_longer(run: Measure) -> None:
    session = run("small", "large")
    # 24*24*24*24*9 against 8*8*8*8*9 multiplications: 81 times as many
    small, large = (session.statistics(name, "min").min_ms for name in ("small", "large"))
    assert large > 3 * small


def test_a_network_s_time_is_with_the_call_and_an_operator_s_without(run: Measure) -> None:
    session = run("large")
    empty_ms = session.runs("empty").min()
    whole = session.statistics("large", subtract_empty=False)
    assert session.statistics("large").min_ms == pytest.approx(whole.min_ms - empty_ms)


def test_measuring_lasts_as_long_as_was_asked(run: Measure, quick: MeasureConfig) -> None:
    session = run("large", config=replace(quick, min_samples=2, min_duration_s=0.2))
    assert session.accepted > 1
    assert session.starts < session.accepted


def test_rounds_come_from_as_many_starts_as_were_asked(run: Measure, quick: MeasureConfig) -> None:
    session = run("small", config=replace(quick, min_starts=3))
    assert session.starts == 3
    assert np.bincount(session.samples["small"].starts).tolist() == [0, 2, 2, 2]


def test_with_more_threads_only_the_wall_clock_counts(run: Measure, quick: MeasureConfig) -> None:
    session = run("small", config=replace(quick, threads=2))
    assert session.samples["small"].thread_ms is None


def test_the_condition_of_the_device_stands_beside_the_samples(run: Measure, journal: Path) -> None:
    session = run("small")
    assert [c["load_average"] is not None for c in session.conditions] == [True, True]
    described = session.to_json()
    assert described["fingerprint"] == LocalDevice().info().fingerprint
    assert json.loads(json.dumps(described))["runtime"] == "onnxruntime"


def test_progress_is_told_round_by_round(run: Measure) -> None:
    told: list[tuple[int, int]] = []
    run("small", on_progress=lambda done, total, eta_s, text: told.append((done, total)))
    assert told == [(i, 6) for i in range(1, 7)]


def test_what_is_complete_is_not_measured_again(run: Measure, journal: Path) -> None:
    first = run("small")
    content = journal.read_bytes()
    again = run("small")
    assert journal.read_bytes() == content
    assert again.statistics("small") == first.statistics("small")


def test_a_longer_session_goes_on_from_a_shorter_one(
    run: Measure, quick: MeasureConfig, journal: Path
) -> None:
    run("small")
    before = rounds_in(journal)
    assert run("small", config=replace(quick, min_samples=16)).accepted == 8
    assert rounds_in(journal)[: len(before)] == before


def test_a_journal_holds_several_sessions(run: Measure, journal: Path) -> None:
    first = run("small", name="one")
    Journal(journal).append({"event": "note", "of": "somebody else"})
    run("large", name="two")
    assert run("small", name="one").statistics("small") == first.statistics("small")


def test_a_file_that_changed_is_not_taken_for_the_one_that_was_measured(
    run: Measure, graph: GraphOf
) -> None:
    run("small")
    with pytest.raises(UsageError, match=r"journal.jsonl .*the file of empty is another now"):
        run("small", empty=Graph("empty", graph("large").path))


def test_other_settings_are_not_mixed_in(run: Measure, quick: MeasureConfig) -> None:
    run("small")
    with pytest.raises(UsageError, match="passes was 3 and is 2 now"):
        run("small", config=replace(quick, passes=2))
    with pytest.raises(UsageError, match="the graph large is only asked for"):
        run("small", "large")


def test_a_graph_that_does_not_run_is_named_and_the_others_are_measured(run: Measure) -> None:
    session = run("small", "damaged")
    assert session.statistics("small").n == 12
    with pytest.raises(CommandFailed, match="damaged does not run with onnxruntime"):
        session.statistics("damaged")
    with pytest.raises(CommandFailed, match="damaged"):
        session.raise_failures()


def test_without_its_sentinel_nothing_is_measured(run: Measure, graph: GraphOf) -> None:
    with pytest.raises(CommandFailed, match="damaged does not run, and nothing can be measured"):
        run("small", sentinel=graph("damaged"))


def test_a_file_of_another_runtime_is_refused(run: Measure) -> None:
    with pytest.raises(UsageError, match=r"litert runs .tflite files"):
        run("small", runner=open_runner("litert"))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"op7 has no file .*op7.onnx"):
        Graph("op7", tmp_path / "op7.onnx")


def test_a_name_that_is_given_twice_is_refused(run: Measure) -> None:
    with pytest.raises(UsageError, match="called 'small'"):
        run("small", "small")


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="threads must be more than 0, got 0"):
        MeasureConfig(threads=0)


# rounds that are rejected: the runner gives the times


def test_a_round_in_which_the_device_was_slow_is_measured_again(
    run: Measure, scripted: Scripted, quick: MeasureConfig, journal: Path
) -> None:
    runner = scripted("150_000 if round in (2, 7) else 100_000")
    config = replace(quick, min_samples=24, sentinel_tolerance=0.1)
    session = run("small", runner=runner, config=config)
    assert session.accepted >= 12 and session.rejected == 2
    rejected = [entry for entry in rounds_in(journal) if not entry["accepted"]]
    assert rejected[-1]["reason"].startswith("the sentinel took 0.1500 ms, 50% more")
    assert set(session.samples["small"].wall_ms.ravel()) == {0.1}


def test_a_device_that_was_disturbed_at_first_is_measured_anew_from_there(
    run: Measure, scripted: Scripted, quick: MeasureConfig, journal: Path
) -> None:
    runner = scripted("130_000 if round < 6 else 100_000")
    config = replace(quick, min_samples=20, sentinel_tolerance=0.1)
    session = run("small", runner=runner, config=config)
    assert session.reference_ms == pytest.approx(0.1)
    assert set(session.samples["small"].wall_ms.ravel()) == {0.1}
    overturned = [e["round"] for e in rounds_in(journal, "verdict") if not e["accepted"]]
    assert overturned == [0, 1, 2, 3, 4, 5]


def test_a_device_that_never_comes_to_rest_is_an_error_and_what_counts_is_kept(
    run: Measure, scripted: Scripted, quick: MeasureConfig, journal: Path
) -> None:
    runner = scripted("100_000 if round < 5 else 200_000")
    config = replace(quick, sentinel_tolerance=0.1, settle_s=0)
    with pytest.raises(DeviceError, match=r"not run steadily.*5 accepted rounds are kept.*resume"):
        run("small", runner=runner, config=config)
    kept = rounds_in(journal)
    session = run("small", runner=scripted("100_000"), config=config)
    assert session.accepted >= 6
    assert rounds_in(journal)[: len(kept)] == kept


def test_a_device_that_comes_to_rest_late_is_waited_for(
    run: Measure, scripted: Scripted, quick: MeasureConfig, journal: Path
) -> None:
    runner = scripted("100_000 if round < 5 or round >= 60 else 200_000")
    session = run("small", runner=runner, config=replace(quick, sentinel_tolerance=0.1))
    assert session.accepted >= 6
    assert session.rejected == 55


# a device that was measured before


@pytest.mark.parametrize("usual_ms", [None, 0.19, 0.1])
def test_a_device_that_was_quicker_before_is_waited_for(
    run: Measure, scripted: Scripted, quick: MeasureConfig, usual_ms: float | None
) -> None:
    runner = scripted("100_000 if round >= 30 else 200_000")
    config = replace(quick, sentinel_tolerance=0.1, min_start_s=0.01, usual_ms=usual_ms)
    session = run("small", runner=runner, config=config)
    waited = usual_ms == 0.1
    assert session.reference_ms == pytest.approx(0.1 if waited else 0.2)
    assert session.rejected == (30 if waited else 0)


def test_a_device_that_stays_slow_is_measured_as_it_is(
    run: Measure, scripted: Scripted, quick: MeasureConfig
) -> None:
    config = replace(quick, sentinel_tolerance=0.1, min_start_s=0.01, usual_ms=0.1, wait_s=0.1)
    told: list[str] = []
    session = run(
        "small",
        runner=scripted("200_000"),
        config=config,
        on_progress=lambda done, total, eta_s, text: told.append(text),
    )
    assert session.reference_ms == pytest.approx(0.2)
    assert session.rejected == 0
    assert "the sentinel took 0.1000 ms and takes 0.2000 ms now" in told[-1]


# runners that go wrong


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("crash", r"killed by signal 6 in round 1, at \w+ or soon after it.*something broke"),
        ("babble", "not of its protocol: 'warming up...'"),
        ("swap", "where 1 of"),
        ("-5", "not of its protocol"),
        ("hang", "timeout of 2 s"),
    ],
)
def test_a_runner_that_goes_wrong_is_an_error_that_says_how(
    run: Measure, scripted: Scripted, quick: MeasureConfig, script: str, message: str
) -> None:
    with pytest.raises(CommandFailed, match=message):
        run("small", runner=scripted(script), config=replace(quick, start_timeout_s=2))


def test_after_a_crash_it_goes_on_behind_the_last_complete_round(
    run: Measure, scripted: Scripted, journal: Path
) -> None:
    with pytest.raises(CommandFailed):
        run("small", runner=scripted("crash"))
    assert [entry["round"] for entry in rounds_in(journal)] == [0]
    assert run("small", runner=scripted("100_000")).accepted == 6
    assert [entry["round"] for entry in rounds_in(journal)] == [0, 1, 2, 3, 4, 5]


def test_another_version_of_the_runtime_is_not_mixed_in(
    run: Measure, scripted: Scripted, journal: Path
) -> None:
    with pytest.raises(CommandFailed):
        run("small", runner=scripted("crash"))
    with pytest.raises(UsageError, match=r"measured with onnxruntime 1, and this is"):
        run("small")


# kill -9

MEASURE = """
import sys
from pathlib import Path
from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.measure import MeasureConfig, measure
from nasdeploy.device_agent.runners.runner import open_runner
from nasdeploy.durable import Journal

device, files, journal = map(Path, sys.argv[1:])
graph = lambda name: Graph(name, files / f"{name}.onnx")
config = MeasureConfig(
    warmups=1, min_samples=200, min_duration_s=0, rounds_per_start=60, sentinel_tolerance=50.0
)
session = measure(
    LocalDevice(device), open_runner("onnxruntime"), [graph("small"), graph("large")],
    sentinel=graph("sentinel"), empty=graph("empty"),
    config=config, journal=Journal(journal), seed=7,
)
print(session.accepted, session.statistics("large").median_ms)
"""


@pytest.mark.slow
def test_killed_at_any_moment_no_accepted_round_is_lost_or_taken_twice(
    local: LocalDevice, onnx_files: Path, journal: Path
) -> None:
    argv = [sys.executable, "-c", MEASURE, local.workdir, str(onnx_files), str(journal)]
    rng = random.Random(0)
    kept: list[dict[str, Any]] = []
    for _ in range(8):
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(rng.uniform(0.3, 1.2))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        rounds = rounds_in(journal)
        assert rounds[: len(kept)] == kept
        kept = rounds
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    rounds = rounds_in(journal)
    assert rounds[: len(kept)] == kept
    assert [entry["round"] for entry in rounds] == list(range(len(rounds)))
    assert done.stdout.split()[0] == str(sum(entry["accepted"] for entry in rounds)) == "200"
    again = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert again.stdout == done.stdout


def test_ctrl_c_ends_the_runner_too(run: Measure, journal: Path) -> None:
    def interrupt(done: int, total: int, eta_s: float | None, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("small", on_progress=interrupt)
    (pid,) = [entry["pid"] for entry in rounds_in(journal, "start")]
    assert not Path(f"/proc/{pid}").exists()
    assert len(rounds_in(journal)) == 1
