"""One file per distinct graph, exported once: what was exported before is found by what goes in.

The files are for measuring. Weights do not count (latency hardly depends on them), so a cached file
carries random ones; a network that ships is exported by its exporter directly.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from nasdeploy.durable import sha256_file, write_json
from nasdeploy.errors import UsageError
from nasdeploy.export import conversion
from nasdeploy.export.artifact import Artifact, Precision, Target
from nasdeploy.export.exporters import SUFFIX, exporter
from nasdeploy.export.quantise import calibration_for_latency, check_request
from nasdeploy.export.sidecar import artifact_from_json
from nasdeploy.export.workers import Failed, Task, run_in_workers, worker_count

if TYPE_CHECKING:
    from torch import nn

K = TypeVar("K", bound=Hashable)
Shapes = Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class ExportJob(Generic[K]):
    """A graph to export for measuring.

    Attributes:
        key: What it is called in the result, in progress and in errors.
        build: Makes the module, or is it. It goes to another process, so it must be picklable: a
            function of a module, or a partial of one.
        input_shapes: One per input, channels first, without the batch.
    """

    key: K
    build: Callable[[], nn.Module] | nn.Module
    input_shapes: Shapes


@dataclass(frozen=True, slots=True)
class CachedFile:
    """An exported graph.

    Attributes:
        graph: `fingerprint` of what went in; equal graphs share one file.
        was_cached: Nothing had to be exported for it.
    """

    path: Path
    graph: str
    artifact: Artifact
    was_cached: bool


@dataclass(frozen=True, slots=True)
class _Task:
    build: Callable[[], nn.Module] | nn.Module
    input_shapes: tuple[tuple[int, ...], ...]
    path: Path
    runtime: str
    precision: Precision
    target: Target
    quantised_io: bool
    seed: int


def fingerprint(
    model: nn.Module,
    input_shapes: Shapes,
    *,
    runtime: str,
    precision: Precision,
    target: Target,
    quantised_io: bool,
) -> str:
    """sha256, in hexadecimal, of all that decides how an exported graph runs.

    That is: the traced graph (so an edited ``forward`` counts), the modules with their settings,
    the weights' names, shapes and types but not their values, the input shapes, what it is exported
    for, and the versions of the converters and of the exporter's own source.

    Args:
        model: In eval mode.
        input_shapes: One per input, without the batch.
    """
    tensors = [
        (name, tuple(tensor.shape), str(tensor.dtype))
        for tensors in (model.named_parameters(), model.named_buffers())
        for name, tensor in tensors
    ]
    parts = (
        _graph_text(model),
        repr(model),
        tensors,
        [tuple(shape) for shape in input_shapes],
        (runtime, precision, target, quantised_io),
        _exporter_identity(runtime),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def graph_of(
    job: ExportJob[K], *, runtime: str, precision: Precision, target: Target, quantised_io: bool
) -> str:
    """`fingerprint` of a job: of what would be exported for it now."""
    return fingerprint(
        _built(job),
        job.input_shapes,
        runtime=runtime,
        precision=precision,
        target=target,
        quantised_io=quantised_io,
    )


def _graph_text(model: nn.Module) -> str:
    """The traced graph; the source files of its classes where the control flow defies tracing."""
    from torch import fx

    try:
        return str(fx.symbolic_trace(model).graph)
    except Exception:
        modules = sorted({type(module).__module__ for module in model.modules()})
        return "\n".join(
            inspect.getsource(sys.modules[name])
            for name in modules
            if not name.startswith("torch.")
        )


@functools.cache
def _exporter_identity(runtime: str) -> str:
    """Versions of the packages that write the file, and a hash of our own part in it."""
    module = sys.modules[exporter(runtime).__module__]
    taken_from = {str(getattr(used, "__module__", "")) for used in vars(module).values()}
    ours = {name for name in taken_from if name.startswith(__package__)}
    own = hashlib.sha256()
    for name in sorted(ours | {module.__name__, __name__}):
        own.update(inspect.getsource(sys.modules[name]).encode())
    return repr((sorted(conversion.versions_of(module.PACKAGES).items()), own.hexdigest()))


def export_many(
    jobs: Sequence[ExportJob[K]],
    cache_dir: Path,
    *,
    runtime: str,
    precision: Precision,
    target: Target,
    quantised_io: bool,
    workers: int | None = None,
    on_progress: Callable[[int, int, K], None] | None = None,
) -> dict[K, CachedFile]:
    """The file of every job; what `cache_dir` doesn't hold is exported, in parallel processes.

    Args:
        workers: Processes with one thread each; by default one per core, as the memory allows.
        on_progress: Called with (exported, to export, key) after each export.
    Raises: `ExportError` naming the key of the first job that failed; what was exported until then
        is kept, and the next call goes on from there.
    """
    check_request(precision, quantised_io)
    exporter(runtime)  # an unknown name shows before any work
    _remove_abandoned(cache_dir)
    graph_of: dict[K, str] = {}
    first_key: dict[str, K] = {}
    found: dict[str, CachedFile] = {}
    tasks: dict[str, _Task] = {}
    sizes: dict[str, int] = {}
    for job in jobs:
        model = _built(job)
        graph = graph_of[job.key] = fingerprint(
            model,
            job.input_shapes,
            runtime=runtime,
            precision=precision,
            target=target,
            quantised_io=quantised_io,
        )
        if graph in first_key:
            continue
        first_key[graph] = job.key
        path = cache_dir / f"{graph}{SUFFIX[runtime]}"
        if artifact := _cached(path):
            found[graph] = CachedFile(path, graph, artifact, was_cached=True)
            continue
        shapes = tuple(tuple(shape) for shape in job.input_shapes)
        tasks[graph] = _Task(
            job.build, shapes, path, runtime, precision, target, quantised_io, int(graph[:8], 16)
        )
        sizes[graph] = sum(1 for _ in model.modules())
    # The longest first, or the last of them would keep one process busy and the others idle.
    order = sorted(tasks, key=lambda graph: -sizes[graph])
    exported = _exported(order, tasks, first_key, workers)
    for done, (graph, artifact) in enumerate(exported, 1):
        found[graph] = CachedFile(artifact.path, graph, artifact, was_cached=False)
        if on_progress:
            on_progress(done, len(tasks), first_key[graph])
    return {key: found[graph] for key, graph in graph_of.items()}


def _built(job: ExportJob[K]) -> nn.Module:
    import torch
    from torch import nn

    if isinstance(job.build, nn.Module):
        return job.build
    with torch.random.fork_rng(devices=[]):  # random weights, and nobody else's random numbers
        return job.build().eval()


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def _cached(path: Path) -> Artifact | None:
    """The artifact at `path`, if it is there whole; a damaged one is exported again."""
    try:
        artifact = artifact_from_json(json.loads(_record(path).read_text()), path.parent)
        return artifact if artifact.sha256 == sha256_file(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _exported(
    order: Sequence[str], tasks: dict[str, _Task], key_of: dict[str, K], workers: int | None
) -> Iterator[tuple[str, Artifact]]:
    """(graph, artifact) as they are done, each in the cache before it is yielded."""
    if not order:
        return
    cache_dir = tasks[order[0]].path.parent
    failures: list[tuple[K, Failed]] = []
    with _work_folder(cache_dir) as work:
        placed = [replace(tasks[graph], path=work / tasks[graph].path.name) for graph in order]
        pickled = [
            Task(_pickled(task, key_of[graph]), task.runtime)
            for task, graph in zip(placed, order, strict=True)
        ]
        count = min(workers or worker_count(len(order)), len(order))
        results = run_in_workers(export_untrained, pickled, workers=count, scratch=work)
        for index, result in results:
            graph = order[index]
            if isinstance(result, Failed):
                failures.append((key_of[graph], result))
                continue
            path = tasks[graph].path
            result.path.replace(path)
            artifact = replace(result, path=path)
            write_json(_record(path), artifact.to_json())
            yield graph, artifact
    if failures:
        key, failed = failures[0]
        raise failed.error(
            f"The export of {key} failed: {failed.message} The files exported so far are kept in "
            f"{cache_dir}; run the same command again to go on from there."
        )


def _remove_abandoned(cache_dir: Path) -> None:
    """The work folders of processes that were killed."""
    for folder in cache_dir.glob(".work-*"):
        pid = int(folder.name.split("-")[1])
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def _pickled(task: _Task, key: Hashable) -> bytes:
    try:
        return pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"The module of {key} cannot be sent to another process ({error}): let `build` be a "
            "function at the top of a module, or a functools.partial of one."
        ) from error


@contextlib.contextmanager
def _work_folder(cache_dir: Path) -> Iterator[Path]:
    """A folder beside the cache for files in the making, on the same file system."""
    cache_dir.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".work-{os.getpid()}-", dir=cache_dir))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def export_untrained(task: _Task) -> Artifact:
    """Export one task in this process, with random weights that one seed decides."""
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(task.seed)
    model = task.build if isinstance(task.build, torch.nn.Module) else task.build()
    _fit_batch_norm(model, task.input_shapes, task.seed)
    return exporter(task.runtime)(
        model.eval(),
        tuple(torch.zeros(1, *shape) for shape in task.input_shapes),
        task.path,
        precision=task.precision,
        target=task.target,
        calibration=calibration_for_latency(task.input_shapes, task.seed)
        if task.precision == "int8"
        else None,
        quantised_io=task.quantised_io,
    )


def _fit_batch_norm(model: nn.Module, input_shapes: Shapes, seed: int) -> None:
    """Take the statistics of random inputs, so that the activations of a deep network don't fade.

    Untrained ones shrink by half in each layer, down to where int8 has nothing to tell apart.
    """
    import torch

    norms = [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)
    ]
    if not norms:
        return
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    (batch,) = calibration_for_latency(input_shapes, seed).batches
    with torch.no_grad():
        model(*batch)
    model.eval()
