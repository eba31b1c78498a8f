"""A device that isn't there: what it was told, with noise, drift and faults, the same each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.measure import MeasureConfig, measure
from nasdeploy.device_agent.retry import Patience
from nasdeploy.device_agent.session import Session
from nasdeploy.device_agent.simulated import Behaviour, Fault, SimulatedDevice, SimulatedRunner
from nasdeploy.durable import Journal
from nasdeploy.errors import (
    CommandFailed,
    DeviceUnreachable,
    OutOfResources,
    UsageError,
)

LATENCIES_MS = {"sentinel": 0.5, "empty": 0.01, "small": 0.1, "large": 2.0}
CONFIG = MeasureConfig(
    warmups=1,
    min_samples=40,
    min_duration_s=0.0,
    rounds_per_start=8,
    sentinel_tolerance=0.15,
    patience=Patience(give_up_after_s=0.0),
)
RUNNER = SimulatedRunner("onnxruntime")


@pytest.fixture
def measured(
    tmp_path: Path, graph: Callable[[str], Graph], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Session]:
    """Measure two graphs on a simulated device, again and again into one journal."""
    monkeypatch.setenv("NASDEPLOY_CACHE", str(tmp_path / "cache"))

    def call(
        *graphs: str, journal: str = "rounds.jsonl", config: MeasureConfig = CONFIG, **settings: Any
    ) -> Session:
        behaviour = Behaviour(**{"pace": 0.0, **settings})
        device = SimulatedDevice("sim:x", "x", LATENCIES_MS, behaviour)
        return measure(
            device,
            RUNNER,
            [graph(name) for name in graphs or ("small", "large")],
            sentinel=graph("sentinel"),
            empty=graph("empty"),
            config=config,
            journal=Journal(tmp_path / journal),
            seed=3,
        )

    return call


def median_ms(session: Session, graph: str) -> float:
    return session.statistics(graph, "median", subtract_empty=False).median_ms


def test_it_takes_what_it_was_told(measured: Callable[..., Session]) -> None:
    session = measured(noise=0.0)
    assert median_ms(session, "small") == pytest.approx(0.1)
    assert median_ms(session, "large") == pytest.approx(2.0)
    assert session.version == "simulated"
    assert session.identity.fingerprint.startswith("simulated, x ")


def test_noise_spreads_samples_around_it(measured: Callable[..., Session]) -> None:
    samples = measured(noise=0.05).samples["large"].wall_ms
    assert samples.std() / samples.mean() == pytest.approx(0.05, rel=0.4)
    assert samples.mean() == pytest.approx(2.0, rel=0.05)


def test_one_seed_gives_the_same_samples_and_another_gives_others(
    measured: Callable[..., Session],
) -> None:
    one, again, other = (
        measured(journal=f"{number}.jsonl", seed=seed).samples["large"].wall_ms
        for number, seed in enumerate((1, 1, 2))
    )
    assert (one == again).all()
    assert (one != other).any()


def test_drift_makes_later_rounds_slower(measured: Callable[..., Session]) -> None:
    session = measured(noise=0.0, drift=0.1, drift_rounds=5)
    samples = session.samples["large"].wall_ms
    assert samples[0].max() == pytest.approx(2.0)
    assert samples[-1].min() == pytest.approx(2.2, rel=0.01)


def test_a_throttled_stretch_is_measured_again(measured: Callable[..., Session]) -> None:
    session = measured(noise=0.01, slow_rounds=(5, 9), slow_factor=2.0)
    assert session.rejected == 5
    assert median_ms(session, "large") == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("unreachable", "push", 3), DeviceUnreachable),
        (Fault("full", "push", 2), OutOfResources),
        # of the runs, the first asks for the device's condition
        (Fault("cut", number=2, after_lines=30), DeviceUnreachable),
        (Fault("crash", number=2, after_lines=30), CommandFailed),
        (Fault("hang", number=2, after_lines=30), CommandFailed),
    ],
    ids=lambda value: value.kind if isinstance(value, Fault) else "",
)
def test_after_a_fault_the_session_ends_as_if_there_had_been_none(
    measured: Callable[..., Session], fault: Fault, error: type[Exception]
) -> None:
    undisturbed = measured(journal="undisturbed.jsonl")
    impatient = replace(CONFIG, start_timeout_s=1.0)
    with pytest.raises(error):
        measured(config=impatient, faults=(fault,))
    resumed = measured()
    for graph in ("small", "large", "sentinel", "empty"):
        assert (resumed.samples[graph].wall_ms == undisturbed.samples[graph].wall_ms).all()


def test_a_graph_that_it_was_told_nothing_of_is_an_error_that_names_it(
    measured: Callable[..., Session],
) -> None:
    session = measured("small", "damaged")
    with pytest.raises(CommandFailed, match=r"damaged does not run .* no latency for it"):
        session.raise_failures()


def test_time_passes_as_it_says(measured: Callable[..., Session], tmp_path: Path) -> None:
    config = replace(CONFIG, min_samples=10, warmups=0)
    rounds = measured(config=config, pace=5.0).accepted
    entries = Journal(tmp_path / "rounds.jsonl").entries
    lasted_s = [entry["duration_s"] for entry in entries if entry["event"] == "round"]
    a_round_s = 2 * (2.0 + 0.1 + 3 * 0.5 + 3 * 0.01) / 1e3
    assert sum(lasted_s) >= 5 * 0.9 * rounds * a_round_s


@pytest.mark.parametrize(
    "wrong", [{"noise": -1}, {"drift_rounds": 0}, {"pace": float("nan")}], ids=str
)
def test_what_cannot_be_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        Behaviour(**wrong)  # type: ignore[arg-type]


def test_a_push_does_not_hang() -> None:
    with pytest.raises(UsageError, match="befalls a run"):
        Fault("hang", "push")


def test_a_real_device_has_no_simulated_runner(local: LocalDevice) -> None:
    with pytest.raises(UsageError, match="only sim: devices"):
        RUNNER.check(local)
