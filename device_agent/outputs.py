"""What a file computes on the device, for given inputs."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nasdeploy import durable
from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.job import Graph, Job, put_graphs, run_job
from nasdeploy.device_agent.lock import device_lock
from nasdeploy.device_agent.runners.events import Event, ModelFailed
from nasdeploy.device_agent.runners.runner import Runner
from nasdeploy.errors import CommandFailed, UsageError

Array = npt.NDArray[Any]


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
    Raises: `CommandFailed` when the file does not run, or not all images came back.
    """
    counts = {len(array) for array in inputs}
    if len(counts) != 1 or counts == {0}:
        raise UsageError(f"Each input needs as many images as the others, got {sorted(counts)}.")
    graph = Graph(path.name, path)

    def take(event: Event) -> None:
        if isinstance(event, ModelFailed):
            raise CommandFailed(
                f"{path} does not run with {runner.runtime} on {device.name}: {event.message}"
            )

    with tempfile.TemporaryDirectory() as name, device_lock(device):
        folder = Path(name)
        remote_inputs = f"{device.workdir}/inputs.npz"
        remote_outputs = f"{device.workdir}/outputs.npz"
        _save(folder / "inputs.npz", inputs)
        device.push(folder / "inputs.npz", remote_inputs)
        runner.prepare(device)
        order = {"id": graph.id, "inputs": remote_inputs, "outputs": remote_outputs}
        run_job(
            device,
            runner,
            put_graphs(device, [graph]),
            Job(threads=threads, outputs=[order]),
            timeout_s=timeout_s,
            on_event=take,
        )
        device.pull(remote_outputs, folder / "outputs.npz")
        outputs = _load(folder / "outputs.npz")
    if any(len(array) != len(inputs[0]) for array in outputs):
        raise CommandFailed(f"{device.name} gave outputs for other images than went into {path}.")
    return outputs


def _save(path: Path, arrays: Sequence[Array]) -> None:
    named = {f"input_{i}": np.asarray(array, np.float32) for i, array in enumerate(arrays)}
    with durable.replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **named)  # type: ignore[arg-type]


def _load(path: Path) -> list[Array]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return [np.asarray(file[f"output_{i}"]) for i in range(len(file.files))]
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as error:
        raise CommandFailed(f"What came back is not a file of outputs: {error}") from error
