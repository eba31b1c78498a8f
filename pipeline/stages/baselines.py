"""Random architectures within the same bound, trained as the winner is.

What a search is worth shows only against networks that cost as much to run and were picked by
chance. They take a core of their own while the network is searched for, trained and exported, since
small networks hardly gain from several, and stand still while something is measured.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import SpawnProcess
from random import Random
from typing import Any, Self

import numpy as np

from nasdeploy.durable import read_jsonl
from nasdeploy.export.workers import interrupts_blocked
from nasdeploy.pipeline.data import DataSet
from nasdeploy.pipeline.run_folder import BASELINES, RunFolder
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.training_jobs import (
    TrainJob,
    cores,
    end_with_parent,
    inputs_of,
    make_train_settings,
    result_of,
    run_job,
    run_jobs,
    training_jobs,
    workers,
)
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, SearchSpace

_DRAWS, _MOST_DRAWS = 4096, 2**20
_POLL_S = 0.5


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


def baseline_jobs(
    context: Context,
    folder: RunFolder,
    space: SearchSpace,
    data: DataSet,
    baselines: Sequence[Arch],
) -> list[TrainJob]:
    """Their trainings, with the threads that the winner's has."""
    archs = {f"random-{number}": arch for number, arch in enumerate(baselines, start=1)}
    return training_jobs(context, folder, dict(space.config), data, archs)


def train_baselines(
    context: Context,
    folder: RunFolder,
    data: DataSet,
    jobs: Sequence[TrainJob],
    beside: TrainedBeside | None = None,
) -> dict[str, Any]:
    """What each came to; trained is what has not been yet.

    Args:
        beside: What may be training some of them already.
    """
    if not jobs:
        return {}
    inputs = inputs_of(context, jobs, data)
    done = folder.done(BASELINES, inputs)
    if done is not None:
        context.console.log("baselines: done already, their inputs are unchanged")
        return done
    settings = make_train_settings(context.config.train.settings, seed=context.config.seed)
    with context.console.progress("Training the random networks") as update:

        def seen(_: object = None) -> None:
            epochs = sum(len(read_jsonl(job.epochs)) for job in jobs)
            update(epochs, settings.epochs * len(jobs))

        if beside is not None:
            beside.wait_for_last_of(jobs, seen)
        missing = [job for job in jobs if result_of(job) is None]
        if missing:
            run_jobs(missing, workers(context, len(missing)), run_job, seen)
    outputs = {job.name: result_of(job) for job in jobs}
    folder.finish(BASELINES, inputs, outputs)
    return outputs


class TrainedBeside:
    """Trains networks one after another on a core of their own while other things go on.

    What is not trained at the end is left to `train_baselines`, which goes on from the last epochs.

    Args:
        jobs: Makes the trainings, when they begin.
        active: False for none.
    """

    def __init__(self, jobs: Callable[[], Sequence[TrainJob]], *, active: bool) -> None:
        self._make, self._active = jobs, active
        self._jobs: Sequence[TrainJob] | None = None
        self._process: SpawnProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    @property
    def active(self) -> bool:
        """Whether they are trained beside the rest at all."""
        return self._active

    def start(self) -> None:
        """Begin, or go on, with what is not trained yet; nothing happens if it has begun."""
        if not self._active or self._jobs is not None:
            return
        self._jobs = self._make()
        missing = [job for job in self._jobs if result_of(job) is None]
        if not missing:
            return
        spawn = multiprocessing.get_context("spawn")
        # no daemon, since the images of a folder are decoded in processes of its own
        self._process = spawn.Process(target=_train_in_turn, args=(missing, os.getpid()))
        with interrupts_blocked():
            self._process.start()

    @contextmanager
    def working(self) -> Iterator[int]:
        """Start, and leave them a core: threads that want the same one wait for each other.

        Yields: How many cores they take, which does not depend on how far they are.
        """
        self.start()
        if not self._jobs:
            yield 0
            return
        import torch

        taken, threads = self._jobs[0].threads, torch.get_num_threads()
        torch.set_num_threads(max(1, min(threads, cores() - taken)))
        try:
            yield taken
        finally:
            torch.set_num_threads(threads)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """No work is done by them in here, so that it disturbs no measurement."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def wait_for_last_of(self, jobs: Sequence[TrainJob], seen: Callable[[], None]) -> None:
        """Wait while the only one that is missing is in training here; several are better trained
        at a time, by whoever waits."""
        while self._is_training([job for job in jobs if result_of(job) is None]):
            seen()
            time.sleep(_POLL_S)
        self._end()

    def _is_training(self, missing: Sequence[TrainJob]) -> bool:
        alive = self._process is not None and self._process.is_alive()
        return alive and len(missing) == 1 and missing[0] in (self._jobs or ())

    def _signal(self, number: signal.Signals) -> None:
        """To the process and its own; one that is only about to lead its group is told alone."""
        if self._process is None or not self._process.is_alive():
            return
        pid = self._process.pid
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == pid:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)

    def _end(self) -> None:
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.join()
            self._process = None


def beside_others(context: Context, jobs: Callable[[], Sequence[TrainJob]]) -> TrainedBeside:
    """`TrainedBeside` where this machine has a core for it, and no GPU that all would want."""
    import torch

    baselines = context.config.train.random_baselines
    idle = min(workers(context, 1 + baselines), cores()) > 1 and not torch.cuda.is_available()
    return TrainedBeside(jobs, active=bool(baselines) and idle)


def _train_in_turn(jobs: Sequence[TrainJob], parent: int) -> None:
    end_with_parent(parent)
    os.setpgid(0, 0)  # so that its own processes can be stopped with it
    # what fails here fails again in the training that goes on from here, which says so
    with contextlib.suppress(Exception):
        for job in jobs:
            run_job(job)
