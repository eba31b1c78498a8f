"""A run that was searched, and its later stages one by one: ``train``, ``export``, ``verify``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nasdeploy.errors import UsageError
from nasdeploy.pipeline.config import Precision, RunConfig, Runtime, make_config, read_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.data import DataSet
from nasdeploy.pipeline.estimating import open_table
from nasdeploy.pipeline.flow import baselines, held, load, make_context, pose_on
from nasdeploy.pipeline.measuring import Measurements
from nasdeploy.pipeline.project import merged
from nasdeploy.pipeline.run_folder import RunFolder, find_run
from nasdeploy.pipeline.stages.baselines import baseline_jobs, train_baselines
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.export import export_winner
from nasdeploy.pipeline.stages.train import train_winner
from nasdeploy.pipeline.stages.training_jobs import make_train_settings
from nasdeploy.pipeline.stages.verify import verify
from nasdeploy.search.space import Arch
from nasdeploy.search.spaces import make_space


@dataclass(frozen=True)
class OpenedRun:
    """A run that was searched, with a command's changes to its configuration."""

    folder: RunFolder
    context: Context
    winner: Mapping[str, Any]
    data: DataSet

    @property
    def config(self) -> RunConfig:
        return self.context.config

    @property
    def name(self) -> str:
        """By which later commands find it."""
        return self.folder.path.name

    @property
    def train_shape(self) -> tuple[int, int, int]:
        channels, height, width = self.winner["train"]["input_shape"]
        return channels, height, width


def open_run(name: str | None, changes: Mapping[str, Any], console: Console) -> OpenedRun:
    """The run of that name, or the newest; its configuration with `changes` on top."""
    folder = RunFolder(find_run(name))
    values = read_config(folder.config_path).model_dump(exclude_unset=True)
    config = make_config(merged(values, changes), source=str(folder.config_path))
    winner = folder.outputs_of("search")
    if winner is None:
        raise UsageError(
            f"{folder.path} has no winner yet. Finish its search: run the command again that "
            "began it, nasdeploy run or nasdeploy search."
        )
    console.log(f"Run {folder.path}")
    return OpenedRun(folder, make_context(config, console), winner, load(config))


def train_only(opened: OpenedRun) -> dict[str, Any]:
    context, config = opened.context, opened.config
    make_train_settings(config.train.settings, seed=config.seed)
    random_archs: list[Arch] = []
    if config.train.random_baselines:
        table = opened.winner["table"]
        given = None if table is None else open_table(str(table))
        problem = pose_on(context, given, opened.data)
        random_archs = baselines(context, problem, opened.winner)
    folder, space = opened.folder, make_space(opened.winner["space"])
    data = opened.data.converted(opened.train_shape)
    with held(folder, config):
        others = baseline_jobs(context, folder, space, data, random_archs)
        trained = train_winner(context, folder, data, opened.winner, others)
        return trained | train_baselines(context, folder, data, others)


def export_only(
    opened: OpenedRun, runtimes: Sequence[Runtime] | None, precisions: Sequence[Precision] | None
) -> list[dict[str, Any]]:
    """Export; every file that was asked for by name must hold its parity."""
    config = opened.config
    if opened.folder.outputs_of("train") is None:
        raise UsageError(
            f"{opened.folder.path} has no trained winner. Train it: "
            f"nasdeploy train --run {opened.name}"
        )
    required: list[tuple[Runtime, Precision]] = [(config.runtime, config.precision)]
    if runtimes or precisions:
        required += [
            (runtime, precision)
            for runtime in runtimes or [config.runtime]
            for precision in precisions or [config.precision]
        ]
    with held(opened.folder, config):
        return export_winner(
            opened.context, opened.folder, opened.data, opened.winner,
            required=list(dict.fromkeys(required)),
        )  # fmt: skip


def verify_only(opened: OpenedRun) -> list[dict[str, Any]]:
    """Measure the exported files, anew at each call."""
    done = opened.folder.outputs_of("export")
    if done is None:
        raise UsageError(
            f"{opened.folder.path} has no exported files. Export them: "
            f"nasdeploy export --run {opened.name}"
        )
    # what a verification is asked for is not what the run was: its configuration stays
    with held(opened.folder, read_config(opened.folder.config_path)):
        measurements = Measurements(opened.folder.measurements_path, anew=True)
        return verify(
            opened.context, opened.folder, opened.winner, done["files"], measurements, anew=True
        )
