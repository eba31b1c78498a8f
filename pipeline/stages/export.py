"""Export the trained winner, and hold every file against the model that it came from.

Each file is run on this machine, by the same runner that measures, on test images: what is compared
is what the file computes, not what the converter believes.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.outputs import run_outputs
from nasdeploy.device_agent.runners.native.external import ExternalRunner
from nasdeploy.device_agent.runners.runner import Runner, open_runner
from nasdeploy.durable import sha256_file, write_json
from nasdeploy.errors import ExportError, ParityError
from nasdeploy.export.artifact import Artifact, Calibration, Target
from nasdeploy.export.exporters import SUFFIX, exporter
from nasdeploy.export.parity import Parity, check, compare, to_layout
from nasdeploy.export.sidecar import write_sidecar
from nasdeploy.export.workers import Failed, Task, run_in_workers, worker_count
from nasdeploy.pipeline.config import Precision, Runtime
from nasdeploy.pipeline.data import DataSet
from nasdeploy.pipeline.run_folder import RunFolder
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.train import trained_network
from nasdeploy.search.space import Deployment
from nasdeploy.search.spaces import make_space

if TYPE_CHECKING:
    from torch import nn

_REFERENCE_BATCH = 64
_PARITY_BYTES = 256 * 10**6  # of images that a runner is given at once


@dataclass(frozen=True)
class Reference:
    """The model and what it says about the test images, once for all files."""

    model: nn.Module
    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    logits: npt.NDArray[np.float32]
    calibration: Calibration


def wanted_files(context: Context) -> list[tuple[Runtime, Precision]]:
    """(runtime, precision) of every file; the one that was searched for comes first."""
    config = context.config
    chosen: tuple[Runtime, Precision] = (config.runtime, config.precision)
    runtimes = config.export.runtimes or (config.runtime,)
    pairs = [(r, p) for r in runtimes for p in config.export.precisions]
    return list(dict.fromkeys([chosen, *pairs]))


def export_winner(
    context: Context,
    folder: RunFolder,
    data: DataSet,
    winner: Mapping[str, Any],
    *,
    required: Sequence[tuple[Runtime, Precision]],
) -> list[dict[str, Any]]:
    """Write every wanted file with its sidecar, and parity.json; returns its entries.

    Args:
        required: Files whose parity must hold; what others lose is recorded and shown.
    Raises: `ParityError` for a required file, after all of them are written; `ExportError` for one
        that cannot be expressed.
    """
    config, console = context.config, context.console
    wanted = wanted_files(context)
    inputs = {
        "weights": sha256_file(folder.winner / "weights.pt"),
        "data": data.sha256,
        "files": wanted,
        "required": list(required),
        "export": config.export.model_dump(),
        "target": context.info.target,
        "seed": config.seed,
    }
    done = folder.done("export", inputs)
    if done is not None:
        console.log("export: done already, its inputs are unchanged")
        return cast(list[dict[str, Any]], done["files"])
    reference = _reference(context, folder, data, winner)
    entries: dict[tuple[str, str], dict[str, Any]] = {}
    paths = []
    failed: ParityError | None = None
    with console.progress("Exporting the winner") as update:
        for artifact in _exported(context, folder, reference, wanted):
            runtime, precision = artifact.runtime, artifact.precision
            parity = _parity(context, artifact, reference)
            holds = True
            try:
                check(parity, precision=precision, max_drop_points=config.export.max_drop_points)
            except ParityError as error:
                holds = False
                if (runtime, precision) in required:
                    failed = failed or error
                else:
                    console.warn(f"{artifact.path.name}: {error}")
            entry = {**artifact.to_json(), "parity": parity.to_json(), "holds": holds}
            entries[runtime, precision] = entry
            paths += [artifact.path, _sidecar(artifact, data, winner, entry)]
            update(len(entries), len(wanted), f"{runtime} {precision}")
    files = [entries[pair] for pair in wanted]
    parity_path = folder.winner / "parity.json"
    write_json(parity_path, files)
    if failed is not None:
        raise failed
    folder.finish("export", inputs, {"files": files}, parity_path, *paths)
    return files


def ship_deployment(winner: Mapping[str, Any], data: DataSet) -> Deployment:
    """The shape that was searched for, with the classes that the data have."""
    space = make_space(winner["space"])
    return Deployment(space.deployment.input_shape, len(data.classes))


def _reference(
    context: Context, folder: RunFolder, data: DataSet, winner: Mapping[str, Any]
) -> Reference:
    import torch

    config = context.config
    deployment = ship_deployment(winner, data)
    shipped = data.converted(deployment.input_shape)
    space = make_space(winner["space"])
    model = trained_network(space, tuple(winner["arch"]), deployment, folder.winner / "weights.pt")
    images, labels, logits = [], [], []
    count = 0
    with torch.no_grad():
        for x, y in shipped.feed(batch_size=_REFERENCE_BATCH, seed=config.seed).batches("test"):
            x, y = (t[: config.export.test_images - count] for t in (x, y))
            images.append(x.contiguous().numpy())
            labels.append(y.numpy())
            logits.append(model(x).numpy())
            count += len(x)
            if count >= config.export.test_images:
                break
    calibration = shipped.calibration(config.export.calibration_images, seed=config.seed)
    return Reference(
        model, np.concatenate(images), np.concatenate(labels), np.concatenate(logits), calibration
    )


@dataclass(frozen=True)
class _Conversion:
    """What a worker process needs to write the files of one runtime."""

    model: nn.Module
    example: npt.NDArray[np.float32]
    folder: Path
    runtime: Runtime
    precisions: Sequence[Precision]
    target: Target
    calibration: Calibration


def converted(conversion: _Conversion) -> list[Artifact]:
    """The files of one runtime; a worker finds it by its name."""
    import torch

    runtime = conversion.runtime
    return [
        exporter(runtime)(
            conversion.model,
            (torch.from_numpy(conversion.example),),
            conversion.folder / f"winner-{runtime}-{precision}{SUFFIX[runtime]}",
            precision=precision,
            target=conversion.target,
            calibration=conversion.calibration if precision == "int8" else None,
        )
        for precision in conversion.precisions
    ]


def _exported(
    context: Context,
    folder: RunFolder,
    reference: Reference,
    wanted: Sequence[tuple[Runtime, Precision]],
) -> Iterator[Artifact]:
    """The files as they are ready, each runtime's by a process of its own.

    A process loads one converter, which takes as long as a conversion, and one that dies takes
    nothing with it.
    """
    conversions = [
        _Conversion(
            reference.model,
            reference.images[:1],
            folder.winner,
            runtime,
            [precision for other, precision in wanted if other == runtime],
            context.info.target,
            reference.calibration,
        )
        for runtime in dict.fromkeys(runtime for runtime, _ in wanted)
    ]
    tasks = [Task(pickle.dumps(conversion), conversion.runtime) for conversion in conversions]
    with tempfile.TemporaryDirectory() as scratch:
        for index, artifacts in run_in_workers(
            converted, tasks, workers=worker_count(len(tasks)), scratch=Path(scratch)
        ):
            if isinstance(artifacts, Failed):
                raise artifacts.error(
                    f"The winner cannot be exported for {conversions[index].runtime}: "
                    f"{artifacts.message}"
                )
            yield from artifacts


def _where_it_runs(context: Context, artifact: Artifact) -> tuple[Device, Runner]:
    """This machine where it can run the file, since it is quicker here; else the run's device."""
    here = LocalDevice()
    if artifact.target == here.info().target:
        choice = "python" if context.config.runner == "python" else "native"
        return here, open_runner(artifact.runtime, choice, say=context.console.log)
    if artifact.target == context.info.target:
        runtime = cast(Runtime, artifact.runtime)
        runner = context.of_file(runtime, artifact.precision).runner
        if isinstance(runner, ExternalRunner):  # a program that tells times, and no outputs
            runner = open_runner(runtime, say=context.console.log)
        return context.device, runner
    raise ExportError(
        f"{artifact.path.name} is made for {artifact.target} and can be run neither here, on "
        f"{here.info().target}, nor on {context.device.name}, on {context.info.target}, to hold "
        "it against the model."
    )


def _parity(context: Context, artifact: Artifact, reference: Reference) -> Parity:
    """Run the file, and hold what comes out against what the model gives."""
    device, runner = _where_it_runs(context, artifact)
    at_once = max(1, _PARITY_BYTES // reference.images[0].nbytes)
    logits = []
    for start in range(0, len(reference.images), at_once):
        images = to_layout(reference.images[start : start + at_once], artifact.inputs[0])
        logits.append(run_outputs(device, runner, artifact.path, [images])[0])
    return compare(reference.logits, np.concatenate(logits), reference.labels)


def _sidecar(
    artifact: Artifact, data: DataSet, winner: Mapping[str, Any], entry: Mapping[str, Any]
) -> Any:
    space = make_space(winner["space"])
    shipped = data.converted(space.deployment.input_shape)
    return write_sidecar(
        artifact,
        labels=data.classes,
        mean=shipped.normalisation.mean,
        std=shipped.normalisation.std,
        arch=winner["arch"],
        space=winner["space"],
        extra={"parity": entry["parity"], "choices": winner["choices"]},
    )
