"""Race the finalists of a search: all are trained a little, the better half of them further.

Successive halving (Jamieson and Talwalkar, "Non-stochastic Best Arm Identification and
Hyperparameter Optimization", AISTATS 2016, arXiv:1502.07943) on the very training that the winner
goes through: the same schedule and seed, so that networks are compared on what they will be, and
whoever wins goes on from where it stands.

The training loss decides, the mean over a network's last epoch: who learns quicker ends higher (Ru
et al., "Speedy Performance Estimation for Neural Architecture Search", NeurIPS 2021,
arXiv:2006.04492, TSE-E with E = 1). It is of many images, each met in that epoch before it was
learnt from, where the accuracy on a few validation images is uncertain by more than what lies
between networks of one bound. The test images stay unseen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nasdeploy.durable import read_jsonl
from nasdeploy.errors import TrainingDiverged
from nasdeploy.pipeline.console import Update
from nasdeploy.pipeline.data import DataSet
from nasdeploy.pipeline.run_folder import RunFolder
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.training_jobs import (
    TrainJob,
    cores,
    make_train_settings,
    run_job,
    run_jobs,
    training_jobs,
)
from nasdeploy.search.space import Arch, SearchSpace

LOOKED_AT = 4  # candidates for each finalist
_APART = 2  # decisions


@dataclass(frozen=True, slots=True)
class Round:
    """So many networks are trained up to an epoch, counted from their first."""

    networks: int
    until: int


@dataclass(frozen=True, slots=True)
class Finalist:
    """How far a network came.

    Attributes:
        training_loss: The mean over the last of its `epochs`; None if its training failed.
        metrics: On the validation images behind it, for a reader; they decide nothing.
        failure: Why it has none, or None.
    """

    arch: Arch
    epochs: int
    training_loss: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    failure: str | None = None


def rounds_of(finalists: int, first_epochs: int, epochs: int) -> list[Round]:
    """Who is trained for how long until one is left: half as many, for twice as long in all.

    Args:
        epochs: Of the whole training; no round goes beyond it.
    """
    rounds = []
    until = first_epochs
    while finalists > 1:
        rounds.append(Round(finalists, min(until, epochs)))
        finalists, until = math.ceil(finalists / 2), 2 * until
    return rounds


def epochs_of(rounds: Sequence[Round]) -> int:
    """What the rounds come to, over all networks: each goes on from where it stands."""
    before = [0, *(round.until for round in rounds)]
    return sum(r.networks * (r.until - done) for r, done in zip(rounds, before, strict=False))


def unlike(archs: Sequence[Arch], n: int) -> list[Arch]:
    """The first `n` of which each differs from all before it in two decisions or more.

    The best of a search are often one network with one decision changed, and a race has little to
    choose among these. Where there are not as many, the first of the others are taken too.
    """
    taken: list[Arch] = []
    for arch in archs:
        if all(_differences(arch, other) >= _APART for other in taken):
            taken.append(arch)
    others = [arch for arch in archs if arch not in taken]
    chosen = {*taken[:n], *others[: max(0, n - len(taken))]}
    return [arch for arch in archs if arch in chosen]


def _differences(arch: Arch, other: Arch) -> int:
    return sum(one != two for one, two in zip(arch, other, strict=True))


def race(
    context: Context,
    folder: RunFolder,
    space: SearchSpace,
    data: DataSet,
    archs: Sequence[Arch],
    *,
    cores_taken: int = 0,
) -> list[Finalist]:
    """The same architectures, best first: who came further, of these who has the lower loss.

    Of equals the one that stood first in `archs` stays before; failures stand last. A killed race
    goes on from the checkpoints of its trainings and comes to the same.

    Args:
        cores_taken: By what goes on meanwhile.
    Raises: `TrainingDiverged` if no training came to an end.
    """
    config = context.config
    settings = make_train_settings(config.train.settings, seed=config.seed)
    rounds = rounds_of(len(archs), config.search.finalist_epochs, settings.epochs)
    # the files are those of the winner's training, since one of these becomes it
    jobs = [
        training_jobs(context, folder, dict(space.config), data, {"winner": arch})[0]
        for arch in archs
    ]
    steps = ", ".join(f"{round.networks} up to epoch {round.until}" for round in rounds)
    context.console.log(
        f"Training the best {len(archs)} to choose one: {steps}; {epochs_of(rounds)} epochs in all"
    )
    running = [Finalist(arch, 0) for arch in archs]
    out: list[Finalist] = []
    failed: list[Finalist] = []
    of_arch = {job.arch: job for job in jobs}
    with context.console.progress("Training finalists") as update:
        trained = _Trained(context, epochs_of(rounds), cores_taken, update)
        for round in rounds:
            running, dropped = running[: round.networks], running[round.networks :]
            out = dropped + out
            if len(running) < 2:
                break
            round_jobs = [replace(of_arch[f.arch], until=round.until) for f in running]
            came_to = [
                _finalist(job, result)
                for job, result in zip(round_jobs, trained(round_jobs), strict=True)
            ]
            # the sort is stable: of equals, the one that stood first
            alive = [finalist for finalist in came_to if finalist.training_loss is not None]
            running = sorted(alive, key=lambda finalist: finalist.training_loss or 0.0)
            failed += [finalist for finalist in came_to if finalist.training_loss is None]
    if not running and not out:
        raise TrainingDiverged(
            f"None of {len(archs)} finalists could be trained: {failed[0].failure}"
        )
    return running + out + failed


def _finalist(job: TrainJob, result: Mapping[str, Any]) -> Finalist:
    if "failure" in result:
        return Finalist(job.arch, job.until or 0, failure=result["failure"])
    return Finalist(job.arch, result["epochs"], result["training_loss"], result["validation"])


class _Trained:
    """Trains the networks of a round, in this process where only one is trained at a time.

    Args:
        epochs: Of all rounds, for the progress.
    """

    def __init__(self, context: Context, epochs: int, cores_taken: int, update: Update) -> None:
        self.context, self.epochs, self.update = context, epochs, update
        self.cores_taken = cores_taken
        self.earlier: dict[Path, int] = {}

    def __call__(self, jobs: Sequence[TrainJob]) -> list[dict[str, Any]]:
        most = max(1, (cores() - self.cores_taken) // jobs[0].threads)
        processes = min(len(jobs), most, self.context.config.train.workers or most)
        if processes > 1:
            results = run_jobs(jobs, processes, run_finalist, lambda _: self._tell(jobs))
        else:
            results = []
            for job in jobs:
                with _torch_as_it_was():
                    results.append(run_finalist(job))
                self._tell(jobs)
        return results

    def _tell(self, jobs: Sequence[TrainJob]) -> None:
        for job in jobs:
            self.earlier[job.epochs] = min(len(read_jsonl(job.epochs)), job.until or 0)
        self.update(sum(self.earlier.values()), self.epochs)


def run_finalist(job: TrainJob) -> dict[str, Any]:
    """`run_job`, for whom a diverging network is out of the race and not the end of it."""
    try:
        return run_job(job)
    except TrainingDiverged as error:
        return {"failure": str(error)}


@contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """What a training sets for its whole process is put back behind it."""
    import torch

    threads = torch.get_num_threads()
    strict, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    with torch.random.fork_rng():
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(strict, warn_only=warn)
