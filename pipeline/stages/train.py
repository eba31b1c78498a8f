"""Train the winner, in a process of its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nasdeploy.durable import replacing, sha256_file
from nasdeploy.pipeline.data import DataSet
from nasdeploy.pipeline.run_folder import RunFolder
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.training_jobs import (
    TrainJob,
    inputs_of,
    make_train_settings,
    run_job,
    run_jobs,
    training_jobs,
    workers,
)
from nasdeploy.search import checkpoint as checkpoints
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.task import Classification

if TYPE_CHECKING:
    from torch import nn


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


def train_winner(
    context: Context,
    folder: RunFolder,
    data: DataSet,
    winner: Mapping[str, Any],
    others: Sequence[TrainJob] = (),
) -> dict[str, Any]:
    """Train the winner; returns what it came to.

    Args:
        others: Trained at the same time, as far as there are cores; their results stay with them.
    """
    config = context.config
    settings = make_train_settings(config.train.settings, seed=config.seed)
    archs = {"winner": tuple(winner["arch"])}
    (job,) = training_jobs(context, folder, winner["space"], data, archs)
    inputs = inputs_of(context, [job], data)
    done = folder.done("train", inputs)
    if done is not None:
        context.console.log("train: done already, its inputs are unchanged")
        return done
    jobs = [job, *others]
    context.console.log(
        f"Training the winner{f' and {len(others)} random networks' if others else ''} for "
        f"{settings.epochs} epochs at {'x'.join(map(str, data.input_shape))}"
    )
    with context.console.progress("Training") as update:

        def seen(epochs: list[list[dict[str, Any]]]) -> None:
            last = epochs[0][-1] if epochs[0] else None
            text = f"winner: validation {last['accuracy']:.1%}" if last else ""
            update(sum(map(len, epochs)), settings.epochs * len(jobs), text)

        result = run_jobs(jobs, workers(context, len(jobs)), run_job, seen)[0]
    weights = folder.winner / "weights.pt"
    if weights.exists() and sha256_file(weights) != sha256_file(job.weights):
        aside = folder.set_aside("weights", weights, *folder.winner.glob("winner-*"))
        context.console.set_aside("The earlier training", aside)
    with replacing(weights) as temporary:
        shutil.copyfile(job.weights, temporary)
    folder.finish("train", inputs, {"winner": result}, weights)
    return {"winner": result}
