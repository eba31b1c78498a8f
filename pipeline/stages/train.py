"""Train the winner, and beside it random architectures within the same bound, equally.

What a search is worth shows only against networks that cost as much to run and were picked by
chance. Each training is a process of its own with its own threads, so that the trainings neither
wait for nor disturb each other, and one thread each makes them reproducible.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from nasdeploy.durable import Journal, read_jsonl, replacing, sha256_file
from nasdeploy.errors import OutOfResources, UnknownName, UsageError
from nasdeploy.export.workers import interrupts_blocked
from nasdeploy.pipeline.data import DataSet, load_data
from nasdeploy.pipeline.run_folder import RunFolder, digest
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.search import checkpoint as checkpoints
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.spaces import make_space
from nasdeploy.search.task import Classification, evaluate
from nasdeploy.search.training import TrainProgress, TrainSettings, train

if TYPE_CHECKING:
    from torch import nn

_POLL_S = 0.5
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_DRAWS, _MOST_DRAWS = 4096, 2**20


@dataclass(frozen=True, slots=True)
class TrainJob:
    """One training, as plain data that another process takes.

    Attributes:
        folder: Its checkpoint, epochs and weights lie there.
        shape: What it is trained at.
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
    def identity(self) -> str:
        """Of everything that decides the result."""
        place = ("name", "folder", "data", "data_root", "images")
        return digest({name: value for name, value in asdict(self).items() if name not in place})

    def _file(self, suffix: str) -> Path:
        """Named by what is trained: another training neither meets nor overwrites its files."""
        return self.folder / f"{self.name}-{self.identity}.{suffix}"


def trained_network(
    space: SearchSpace, arch: Arch, deployment: Deployment, weights: Path
) -> nn.Module:
    """The architecture with its trained weights, in eval mode, at any input size."""
    stored = checkpoints.load(weights, identity={"arch": list(arch)})
    if stored is None:
        raise FileNotFoundError(weights)
    model = space.build(arch, task=Classification(), deployment=deployment)
    model.load_state_dict(stored["weights"])
    return model.eval()


def random_within(
    space: SearchSpace, bounds: Bounds, n: int, *, seed: int, exclude: Arch | None
) -> list[Arch]:
    """`n` different architectures drawn evenly among those within the bounds.

    By rejection, so that the draw is even; fewer where the bounds leave less than one in a
    hundred thousand.
    """
    rng = Random(seed)
    found: list[Arch] = []
    drawn = 0
    while len(found) < n and drawn < _MOST_DRAWS:
        draws = [space.sample(rng) for _ in range(_DRAWS)]
        drawn += len(draws)
        within = [draws[index] for index in np.flatnonzero(bounds.admits(draws))]
        found += [arch for arch in dict.fromkeys(within) if arch not in found and arch != exclude]
    return found[:n]


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


def train_winner(
    context: Context,
    folder: RunFolder,
    space: SearchSpace,
    data: DataSet,
    winner: Mapping[str, Any],
    baselines: Sequence[Arch],
) -> dict[str, Any]:
    """Train the winner and the baselines; returns what each came to, the winner first."""
    config = context.config
    settings = make_train_settings(config.train.settings, seed=config.seed)
    archs = {"winner": tuple(winner["arch"]), **_named(baselines)}
    inputs = {
        "archs": {name: list(arch) for name, arch in archs.items()},
        "space": winner["space"],
        "data": data.sha256,
        "shape": list(data.input_shape),
        "train": config.train.model_dump(exclude={"workers"}),
        "seed": config.seed,
    }
    done = folder.done("train", inputs)
    if done is not None:
        context.console.log("train: done already, its inputs are unchanged")
        return done
    jobs = _jobs(context, folder, winner["space"], data, archs)
    context.console.log(
        f"Training the winner{f' and {len(baselines)} random networks' if baselines else ''} for "
        f"{settings.epochs} epochs at {'x'.join(map(str, data.input_shape))}"
    )
    results = _run_jobs(context, jobs, settings.epochs, _workers(context, len(jobs)))
    weights = folder.winner / "weights.pt"
    if weights.exists() and sha256_file(weights) != sha256_file(jobs[0].weights):
        aside = folder.set_aside("weights", weights, *folder.winner.glob("winner-*"))
        context.console.set_aside("The earlier training", aside)
    with replacing(weights) as temporary:
        shutil.copyfile(jobs[0].weights, temporary)
    outputs = {job.name: result for job, result in zip(jobs, results, strict=True)}
    folder.finish("train", inputs, outputs, weights)
    return outputs


@contextmanager
def training_ahead(
    context: Context,
    folder: RunFolder,
    space: SearchSpace,
    data: DataSet,
    baselines: Sequence[Arch],
) -> Iterator[None]:
    """Train baselines on a core of their own meanwhile, as far as they get.

    `train_winner` goes on from their last epochs. What goes on meanwhile has the other cores: small
    networks hardly gain from several, and threads that want the same one wait for each other. Where
    there is one core only, or a GPU that both would want, nothing is done.
    """
    import torch

    # the threads of each, and so the result to the bit, are those of the training that goes on
    count = len(baselines) + 1
    idle = min(_workers(context, count), _cores()) > 1 and not torch.cuda.is_available()
    if not baselines or not idle:
        yield
        return
    archs = _named(baselines)
    jobs = _jobs(context, folder, dict(space.config), data, archs, count=count)
    spawn = multiprocessing.get_context("spawn")
    # no daemon, since the images of a folder are decoded in processes of its own
    process = spawn.Process(target=_train_in_turn, args=(jobs, os.getpid()))
    with interrupts_blocked():
        process.start()
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, min(threads, _cores() - jobs[0].threads)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        process.kill()
        process.join()


def _train_in_turn(jobs: Sequence[TrainJob], parent: int) -> None:
    _end_with_parent(parent)
    # what fails here fails again in the training that goes on from here, which says so
    with contextlib.suppress(Exception):
        for job in jobs:
            run_job(job)


def _named(baselines: Sequence[Arch]) -> dict[str, Arch]:
    return {f"random-{number}": arch for number, arch in enumerate(baselines, start=1)}


def _jobs(
    context: Context,
    folder: RunFolder,
    space: Mapping[str, Any],
    data: DataSet,
    archs: Mapping[str, Arch],
    *,
    count: int | None = None,
) -> list[TrainJob]:
    """The trainings of some networks, of `count` in all that share the cores."""
    config = context.config
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
            threads=_threads_each(_cores(), _workers(context, count or len(archs))),
        )
        for name, arch in archs.items()
    ]


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _workers(context: Context, networks: int) -> int:
    return min(networks, context.config.train.workers or _cores())


def _threads_each(cores: int, workers: int) -> int:
    """The cores are shared out; $OMP_NUM_THREADS is the most that one gets, as everywhere else."""
    most = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores // workers, int(most) if most.isdigit() else cores))


def _run_jobs(
    context: Context, jobs: Sequence[TrainJob], epochs: int, workers: int
) -> list[dict[str, Any]]:
    """Every job in a process of its own; the first error ends all of them."""
    spawn = multiprocessing.get_context("spawn")
    with (
        context.console.progress("Training") as update,
        ProcessPoolExecutor(
            workers, mp_context=spawn, initializer=_end_with_parent, initargs=(os.getpid(),)
        ) as pool,
    ):
        # the parent ends the workers itself
        with interrupts_blocked():
            futures: list[Future[dict[str, Any]]] = [pool.submit(run_job, job) for job in jobs]
        try:
            pending = set(futures)
            while pending:
                _, pending = wait(pending, timeout=_POLL_S)
                _raise_first(futures)
                seen = [read_jsonl(job.epochs) for job in jobs]
                last = seen[0][-1] if seen[0] else None
                text = f"winner: validation {last['accuracy']:.1%}" if last else ""
                update(sum(map(len, seen)), epochs * len(jobs), text)
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


def _end_with_parent(parent: int) -> None:
    """A worker ends with whoever started it, even by kill -9, so that no training is orphaned."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def run_job(job: TrainJob) -> dict[str, Any]:
    """Train one network, in this process; goes on from its checkpoint if there is one."""
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
        epochs.append({"epoch": epoch.number, "loss": epoch.loss, **epoch.metrics, "s": took_s})

    ended = [time.monotonic()]
    result = train(
        model,
        feed,
        task=task,
        settings=settings,
        checkpoint=job.checkpoint,
        identity={"job": job.identity},
        on_epoch=report,
    )
    checkpoints.save(job.weights, {"weights": result.weights}, identity={"arch": list(job.arch)})
    test = evaluate(model, feed.batches("test"), task)
    return {
        "arch": list(job.arch),
        "validation": dict(result.best.metrics),
        "test": test,
        "epochs": len(result.history),
        "train_s": sum(entry["s"] for entry in epochs.entries),
    }
