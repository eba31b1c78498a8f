"""What a file computes on the device, for given inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.job import Graph, Job, put_graphs, run_job
from nasdeploy.device_agent.lock import device_lock
from nasdeploy.device_agent.retry import Patience, persist
from nasdeploy.device_agent.runners.events import Event, ModelFailed, Outputs
from nasdeploy.device_agent.runners.runner import Runner
from nasdeploy.errors import CommandFailed, UsageError

Array = npt.NDArray[Any]

_MOST_OUTPUTS = 64


def run_outputs(
    device: Device,
    runner: Runner,
    path: Path,
    inputs: Sequence[Array],
    *,
    threads: int = 1,
    timeout_s: float = 600.0,
) -> list[Array]:
    """Run every image through the file at `path` on the device.

    Args:
        inputs: One array for each input of the file, (images, ...) in the file's own layout;
            they go in as float32, quantised by the file's own scale where it wants that.
    Returns: One float32 array for each output, (images, ...).
    Raises: `CommandFailed` when the file does not run, or not all images came back;
        `DeviceUnreachable` when the device went away and did not come back.
    """
    counts = {len(array) for array in inputs}
    if len(counts) != 1 or counts == {0}:
        raise UsageError(f"Each input needs as many images as the others, got {sorted(counts)}.")
    graph = Graph(path.name, path)
    with tempfile.TemporaryDirectory() as name, device_lock(device):
        outputs = persist(
            lambda: _run_once(device, runner, graph, inputs, Path(name), threads, timeout_s),
            patience=Patience(),
        )
    if not outputs or any(len(array) != len(inputs[0]) for array in outputs):
        raise CommandFailed(f"{device.name} gave outputs for other images than went into {path}.")
    return outputs


def _run_once(
    device: Device,
    runner: Runner,
    graph: Graph,
    inputs: Sequence[Array],
    folder: Path,
    threads: int,
    timeout_s: float,
) -> list[Array]:
    count = 0

    def take(event: Event) -> None:
        nonlocal count
        if isinstance(event, ModelFailed):
            raise CommandFailed(
                f"{graph.path} does not run with {runner.runtime} on {device.name}: {event.message}"
            )
        if isinstance(event, Outputs):
            count = len(event.paths)

    runner.prepare(device)
    order = {
        "id": graph.id,
        "inputs": _push_inputs(device, inputs, folder),
        "outputs": f"{device.workdir}/output",
    }
    run_job(
        device,
        runner,
        put_graphs(device, [graph]),
        Job(threads=threads, outputs=[order]),
        timeout_s=timeout_s,
        on_event=take,
    )
    return [_pull_output(device, i, folder) for i in range(min(count, _MOST_OUTPUTS))]


def _push_inputs(device: Device, inputs: Sequence[Array], folder: Path) -> list[str]:
    remotes = []
    for i, array in enumerate(inputs):
        local = folder / f"input{i}.npy"
        np.save(local, np.ascontiguousarray(array, np.float32))
        remotes.append(f"{device.workdir}/input{i}.npy")
        device.push(local, remotes[-1])
    return remotes


def _pull_output(device: Device, number: int, folder: Path) -> Array:
    local = folder / f"output{number}.npy"
    device.pull(f"{device.workdir}/output{number}.npy", local)
    try:
        array: Array = np.load(local, allow_pickle=False)
        return array
    except (ValueError, OSError, EOFError) as error:
        raise CommandFailed(f"What came back is not a file of outputs: {error}") from error
