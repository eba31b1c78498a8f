"""Trainings as processes of their own: what each is handed, and how the cores are shared out.

Each has its own threads, so that trainings neither wait for nor disturb each other, and so that how
many of them there are at a time changes no bit of a result.
"""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from nasdeploy.durable import Journal, read_jsonl, write_json
from nasdeploy.errors import OutOfResources, UnknownName, UsageError
from nasdeploy.export.workers import interrupts_blocked
from nasdeploy.pipeline.data import DataSet, load_data
from nasdeploy.pipeline.run_folder import RunFolder, digest
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.search import checkpoint as checkpoints
from nasdeploy.search.space import Arch, Deployment
from nasdeploy.search.spaces import make_space
from nasdeploy.search.task import Classification, evaluate
from nasdeploy.search.training import TrainProgress, TrainSettings, train

_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One training, as plain data that another process takes.

    Attributes:
        folder: Its checkpoint, epochs and weights lie there.
        shape: What it is trained at.
        until: The epoch after which it stops for now; None for the whole training.
    """

    name: str
    folder: Path
    space: Mapping[str, Any]
    arch: Arch
    data: str
    data_root: str | None
    images: int | None
    data_sha256: str
    shape: tuple[int, int, int]
    classes: int
    settings: Mapping[str, Any]
    label_smoothing: float
    seed: int
    threads: int
    until: int | None = None

    @property
    def checkpoint(self) -> Path:
        return self._file("pt")

    @property
    def weights(self) -> Path:
        return self._file("weights.pt")

    @property
    def epochs(self) -> Path:
        return self._file("epochs.jsonl")

    @property
    def result(self) -> Path:
        return self._file("result.json")

    @property
    def identity(self) -> str:
        """Of everything that decides the result."""
        place = ("name", "folder", "data", "data_root", "images", "until")
        return digest({name: value for name, value in asdict(self).items() if name not in place})

    def _file(self, suffix: str) -> Path:
        """Named by what is trained: another training neither meets nor overwrites its files."""
        return self.folder / f"{self.name}-{self.identity}.{suffix}"


def make_train_settings(values: Mapping[str, Any], *, seed: int) -> TrainSettings:
    """The trainer's settings from a configuration; `UnknownName` for one that it has not."""
    known = {field.name for field in fields(TrainSettings)} - {"seed"}
    for name in values:
        if name not in known:
            raise UnknownName("setting of train", name, known)
    try:
        return TrainSettings(**values, seed=seed)
    except TypeError as error:
        raise UsageError(f"train.settings: {error}.") from None


def training_jobs(
    context: Context,
    folder: RunFolder,
    space: Mapping[str, Any],
    data: DataSet,
    archs: Mapping[str, Arch],
) -> list[TrainJob]:
    """The trainings of some networks, of winner and baselines, which share the cores."""
    config = context.config
    threads = _threads_each(cores(), workers(context, 1 + config.train.random_baselines))
    return [
        TrainJob(
            name=name,
            folder=folder.checkpoints,
            space=space,
            arch=arch,
            data=config.data,
            data_root=config.data_root,
            images=config.images,
            data_sha256=data.sha256,
            shape=data.input_shape,
            classes=len(data.classes),
            settings={**config.train.settings, "seed": config.seed},
            label_smoothing=config.train.label_smoothing,
            seed=config.seed,
            threads=threads,
        )
        for name, arch in archs.items()
    ]


def inputs_of(context: Context, jobs: Sequence[TrainJob], data: DataSet) -> dict[str, Any]:
    """What a stage that trains is done with: its networks, and how they are trained."""
    train = context.config.train.model_dump(exclude={"workers", "random_baselines"})
    return {
        "archs": {job.name: list(job.arch) for job in jobs},
        "space": jobs[0].space,
        "data": data.sha256,
        "shape": list(data.input_shape),
        "train": train,
        "seed": context.config.seed,
    }


def cores() -> int:
    return len(os.sched_getaffinity(0))


def workers(context: Context, networks: int) -> int:
    return min(networks, context.config.train.workers or cores())


def _threads_each(available: int, processes: int) -> int:
    """The cores are shared out; $OMP_NUM_THREADS is the most that one gets, as everywhere else."""
    most = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(available // processes, int(most) if most.isdigit() else available))


def run_jobs(
    jobs: Sequence[TrainJob],
    processes: int,
    work: Callable[[TrainJob], dict[str, Any]],
    seen: Callable[[list[list[dict[str, Any]]]], None],
) -> list[dict[str, Any]]:
    """Every job in a process of its own, so many at a time; the first error ends all of them.

    Args:
        work: `run_job`, or what is about it.
        seen: Told now and then what the epochs of each job have come to.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=spawn, initializer=end_with_parent, initargs=(os.getpid(),)
    ) as pool:
        # the parent ends the workers itself
        with interrupts_blocked():
            futures: list[Future[dict[str, Any]]] = [pool.submit(work, job) for job in jobs]
        try:
            pending = set(futures)
            while pending:
                _, pending = wait(pending, timeout=_POLL_S)
                _raise_first(futures)
                seen([read_jsonl(job.epochs) for job in jobs])
        except BaseException:
            # before the pool is shut down, which forgets them and would wait for their last epoch
            for process in list((pool._processes or {}).values()):
                process.kill()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        return [future.result() for future in futures]


def _raise_first(futures: Sequence[Future[dict[str, Any]]]) -> None:
    for future in futures:
        if future.done() and isinstance(error := future.exception(), BrokenProcessPool):
            raise OutOfResources(
                "A training process was ended from outside, often for want of memory. Try "
                "train.workers: 1 or a smaller batch_size; the same command goes on from the last "
                "epoch."
            ) from error
        if future.done():
            future.result()


def end_with_parent(parent: int) -> None:
    """A worker ends with whoever started it, even by kill -9, so that no training is orphaned."""
    # blocked since the start; a library was seen to lift that in a worker that exports
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def result_of(job: TrainJob) -> dict[str, Any] | None:
    """What a whole training came to, if it has ended."""
    if not (job.result.exists() and job.weights.exists()):
        return None
    result: dict[str, Any] = json.loads(job.result.read_text())
    return result


def run_job(job: TrainJob) -> dict[str, Any]:
    """Train one network, in this process; goes on from its checkpoint if there is one.

    Returns: What it came to. Of a job that stops early that is training loss and validation of the
        epoch where it stops, however far it was trained before, and nothing of the test images.
    """
    if job.until is None and (known := result_of(job)) is not None:
        return known
    import torch

    torch.set_num_threads(job.threads)
    torch.manual_seed(job.seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    root = Path(job.data_root) if job.data_root else None
    data = load_data(job.data, root=root, seed=job.seed, images=job.images).converted(job.shape)
    settings = TrainSettings(**job.settings)
    task = Classification(label_smoothing=job.label_smoothing)
    deployment = Deployment(job.shape, job.classes)
    model = make_space(job.space).build(job.arch, task=task, deployment=deployment)
    feed = data.feed(batch_size=settings.batch_size, seed=job.seed)
    epochs = Journal(job.epochs)

    def report(progress: TrainProgress) -> None:
        epoch, now = progress.epoch, time.monotonic()
        took_s = now - ended[-1]
        ended.append(now)
        losses = {"epoch": epoch.number, "training_loss": epoch.loss}
        epochs.append({**losses, **epoch.metrics, "s": took_s})

    ended = [time.monotonic()]
    result = train(
        model,
        feed,
        task=task,
        settings=settings,
        checkpoint=job.checkpoint,
        identity={"job": job.identity},
        until=job.until,
        on_epoch=report,
    )
    if job.until is not None:
        stopped = result.history[min(job.until, len(result.history)) - 1]
        return {
            "training_loss": stopped.loss,
            "validation": dict(stopped.metrics),
            "epochs": stopped.number,
        }
    checkpoints.save(job.weights, {"weights": result.weights}, identity={"arch": list(job.arch)})
    test = evaluate(model, feed.batches("test"), task)
    came_to = {
        "arch": list(job.arch),
        "validation": dict(result.best.metrics),
        "test": test,
        "epochs": len(result.history),
        "train_s": sum(entry["s"] for entry in epochs.entries),
    }
    write_json(job.result, came_to)
    return came_to
