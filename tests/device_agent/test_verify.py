"""A network in several starts, and what a file computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nasdeploy.device_agent.job import Graph
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.measure import MeasureConfig
from nasdeploy.device_agent.memory import peak_rss_bytes
from nasdeploy.device_agent.outputs import run_outputs
from nasdeploy.device_agent.runners.runner import Runner, open_runner
from nasdeploy.device_agent.verify import NetworkMeasurement, measure_network
from nasdeploy.durable import Journal
from nasdeploy.errors import CommandFailed, UsageError

GraphOf = Callable[[str], Graph]


def verify(
    device: LocalDevice, runner: Runner, graph: GraphOf, config: MeasureConfig, folder: Path
) -> NetworkMeasurement:
    return measure_network(
        device,
        runner,
        graph("large"),
        sentinel=graph("sentinel"),
        empty=graph("empty"),
        config=config,
        journal=Journal(folder / "journal.jsonl"),
        seed=0,
    )


def test_a_network_is_measured_in_three_starts_with_its_call(
    local: LocalDevice, graph: GraphOf, quick: MeasureConfig, tmp_path: Path
) -> None:
    found = verify(local, open_runner("onnxruntime"), graph, quick, tmp_path)
    assert [samples.shape for samples in found.samples_by_start()] == [(2, 2)] * 3
    every = np.concatenate(found.samples_by_start())
    assert found.statistics("p10").p10_ms == pytest.approx(np.quantile(every, 0.1))


def test_its_memory_is_that_of_a_process_that_ran_it_alone(
    local: LocalDevice, graph: GraphOf, quick: MeasureConfig, tmp_path: Path
) -> None:
    runner = open_runner("onnxruntime")
    found = verify(local, runner, graph, quick, tmp_path)
    alone = peak_rss_bytes(local, runner, graph("large"))
    assert found.peak_rss_bytes == pytest.approx(alone, rel=0.05)
    again = verify(local, runner, graph, quick, tmp_path)
    assert again.peak_rss_bytes == found.peak_rss_bytes


def test_memory_of_a_file_that_does_not_run_is_an_error(local: LocalDevice, graph: GraphOf) -> None:
    with pytest.raises(CommandFailed, match=r"damaged\.onnx does not run"):
        peak_rss_bytes(local, open_runner("onnxruntime"), graph("damaged"))


def test_its_interval_reaches_to_the_slowest_start(
    local: LocalDevice,
    graph: GraphOf,
    scripted: Callable[[str], Runner],
    quick: MeasureConfig,
    tmp_path: Path,
) -> None:
    # 6 rounds in 3 starts of 2; the last start is 20 % slower, in the network alone
    runner = scripted("120_000 if model == 'large' and round > 3 else 100_000")
    config = replace(quick, sentinel_tolerance=0.1)
    found = verify(local, runner, graph, config, tmp_path).statistics("median")
    assert found.median_ms == pytest.approx(0.1)
    assert found.ci95_ms == pytest.approx((0.1, 0.12))


def test_a_network_that_does_not_run_is_an_error(
    local: LocalDevice, graph: GraphOf, quick: MeasureConfig, tmp_path: Path
) -> None:
    def damaged(name: str) -> Graph:
        return graph("damaged" if name == "large" else name)

    with pytest.raises(CommandFailed, match="damaged does not run"):
        verify(local, open_runner("onnxruntime"), damaged, quick, tmp_path)


def test_images_come_back_as_the_file_computes_them(local: LocalDevice, onnx_files: Path) -> None:
    x = np.random.default_rng(0).normal(size=(3, 1, 2, 2))
    (y,) = run_outputs(local, open_runner("onnxruntime"), onnx_files / "empty.onnx", [x])
    np.testing.assert_array_equal(y, (x.astype(np.float32) * 2))


def test_a_damaged_file_has_no_outputs(local: LocalDevice, onnx_files: Path) -> None:
    x = np.zeros((1, 1, 2, 2))
    with pytest.raises(CommandFailed, match=r"damaged.onnx does not run"):
        run_outputs(local, open_runner("onnxruntime"), onnx_files / "damaged.onnx", [x])


def test_images_of_another_shape_are_an_error(local: LocalDevice, onnx_files: Path) -> None:
    with pytest.raises(CommandFailed, match=r"shape \(1, 3, 2, 2\) where \(1, 1, 2, 2\)"):
        x = np.zeros((1, 3, 2, 2))
        run_outputs(local, open_runner("onnxruntime"), onnx_files / "empty.onnx", [x])


def test_inputs_of_unlike_length_are_refused(local: LocalDevice, onnx_files: Path) -> None:
    with pytest.raises(UsageError, match="as many images"):
        run_outputs(local, open_runner("onnxruntime"), onnx_files / "empty.onnx", [])
