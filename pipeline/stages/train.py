"""Train the winner, and beside it random architectures within the same bound, equally.

What a search is worth shows only against networks that cost as much to run and were picked by
chance. Each training is a process of its own with its own threads, so that the trainings neither
wait for nor disturb each other, and one thread each makes them reproducible.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np

from nasdeploy.durable import replacing, sha256_file
from nasdeploy.export.workers import interrupts_blocked
from nasdeploy.pipeline.data import DataSet
from nasdeploy.pipeline.run_folder import RunFolder
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.training_jobs import (
    TrainJob,
    cores,
    end_with_parent,
    make_train_settings,
    run_job,
    run_jobs,
    training_jobs,
    workers,
)
from nasdeploy.search import checkpoint as checkpoints
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.task import Classification

if TYPE_CHECKING:
    from torch import nn

_DRAWS, _MOST_DRAWS = 4096, 2**20


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
    jobs = training_jobs(context, folder, winner["space"], data, archs)
    context.console.log(
        f"Training the winner{f' and {len(baselines)} random networks' if baselines else ''} for "
        f"{settings.epochs} epochs at {'x'.join(map(str, data.input_shape))}"
    )
    with context.console.progress("Training") as update:

        def seen(epochs: list[list[dict[str, Any]]]) -> None:
            last = epochs[0][-1] if epochs[0] else None
            text = f"winner: validation {last['accuracy']:.1%}" if last else ""
            update(sum(map(len, epochs)), settings.epochs * len(jobs), text)

        results = run_jobs(jobs, workers(context, len(jobs)), run_job, seen)
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
) -> Iterator[int]:
    """Train baselines on a core of their own meanwhile, as far as they get.

    `train_winner` goes on from their last epochs. What goes on meanwhile has the other cores: small
    networks hardly gain from several, and threads that want the same one wait for each other. Where
    there is one core only, or a GPU that both would want, nothing is done.

    Yields: How many cores that takes.
    """
    import torch

    # the threads of each, and so the result to the bit, are those of the training that goes on
    count = len(baselines) + 1
    idle = min(workers(context, count), cores()) > 1 and not torch.cuda.is_available()
    if not baselines or not idle:
        yield 0
        return
    archs = _named(baselines)
    jobs = training_jobs(context, folder, dict(space.config), data, archs, count=count)
    spawn = multiprocessing.get_context("spawn")
    # no daemon, since the images of a folder are decoded in processes of its own
    process = spawn.Process(target=_train_in_turn, args=(jobs, os.getpid()))
    with interrupts_blocked():
        process.start()
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, min(threads, cores() - jobs[0].threads)))
    try:
        yield jobs[0].threads
    finally:
        torch.set_num_threads(threads)
        process.kill()
        process.join()


def _train_in_turn(jobs: Sequence[TrainJob], parent: int) -> None:
    end_with_parent(parent)
    # what fails here fails again in the training that goes on from here, which says so
    with contextlib.suppress(Exception):
        for job in jobs:
            run_job(job)


def _named(baselines: Sequence[Arch]) -> dict[str, Arch]:
    return {f"random-{number}": arch for number, arch in enumerate(baselines, start=1)}
