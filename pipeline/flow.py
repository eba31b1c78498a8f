"""All of it, stage after stage: what ``nasdeploy run`` does, and what the single commands share.

Each stage is skipped while its inputs are the same, so running the same command again goes on
where it was stopped, by whatever it was stopped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nasdeploy
from nasdeploy.device_agent.devices import open_device
from nasdeploy.durable import write_bytes
from nasdeploy.errors import INTERRUPTED_EXIT_CODE, NasdeployError, UsageError
from nasdeploy.latency_tables.estimate import Estimator
from nasdeploy.pipeline.config import RunConfig, make_config, read_config, write_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.data import DataSet, load_data
from nasdeploy.pipeline.estimating import OpenedTable, open_table, space_on_table
from nasdeploy.pipeline.measuring import Measurements
from nasdeploy.pipeline.project import merged
from nasdeploy.pipeline.report import Summary, interval, write_report
from nasdeploy.pipeline.run_folder import RUNS, RunFolder, digest, find_run, git_revision, now
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.export import export_winner, wanted_files
from nasdeploy.pipeline.stages.files import export_files, network_id, network_jobs
from nasdeploy.pipeline.stages.profile import profile
from nasdeploy.pipeline.stages.search import Problem, bounds_of, pose, search
from nasdeploy.pipeline.stages.train import random_within, train_winner
from nasdeploy.pipeline.stages.verify import verify
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.spaces import make_space
from nasdeploy.units import format_ms

OWN_TABLE = "table.yaml"


def make_context(config: RunConfig, console: Console, *, resume: bool = True) -> Context:
    return Context(config, open_device(config.device), console, resume=resume)


@contextmanager
def held(folder: RunFolder, config: RunConfig) -> Iterator[None]:
    """Hold the run's folder, and write down how the command ended."""
    with folder.only_me():
        write_config(config, folder.config_path)
        folder.save(
            nasdeploy=nasdeploy.__version__,
            seed=config.seed,
            git=git_revision(),
            started=now(),
            exit=None,
        )
        code: int | None = None
        try:
            yield
            code = 0
        except NasdeployError as error:
            code = error.exit_code
            raise
        except KeyboardInterrupt:
            code = INTERRUPTED_EXIT_CODE
            raise
        except BaseException:
            code = 1
            raise
        finally:
            folder.save(exit=code, ended=now())


def load(config: RunConfig) -> DataSet:
    """The run's images, at their own shape; at the space's where their sizes are mixed."""
    root = Path(config.data_root) if config.data_root else None
    given = config.space_parameters.get("input_shape")
    shape = (given[0], given[1], given[2]) if given and config.data.startswith("folder:") else None
    return load_data(config.data, root=root, seed=config.seed, input_shape=shape)


def space_for(config: RunConfig, data: DataSet | None) -> SearchSpace:
    """The space at the deployment of the configuration, else at that of the data."""
    parameters = dict(config.space_parameters)
    if data is not None:
        parameters.setdefault("input_shape", list(data.input_shape))
        parameters.setdefault("classes", len(data.classes))
    return make_space(config.space_name, **parameters)


def table_for_run(context: Context, folder: RunFolder, data: DataSet) -> OpenedTable:
    """The table that the configuration names, or one that is measured into the run's folder."""
    config = context.config
    if config.table is not None:
        return open_table(config.table, device=config.device)
    path = folder.path / OWN_TABLE
    space = space_for(config, data)
    inputs = {
        "space": dict(space.config),
        "device": context.info.fingerprint,
        "runtime": [config.runtime, config.precision, config.threads],
        "profile": config.profile.model_dump(),
        "seed": config.seed,
    }
    if folder.is_done("profile", inputs):
        context.console.log("profile: done already, its inputs are unchanged")
    else:
        profile(context, space, path)
        folder.finish("profile", inputs, {}, path)
    return open_table(str(path), device=config.device)


def pose_on(context: Context, opened: OpenedTable, data: DataSet) -> Problem:
    """The problem on a table; the table's deployment is the default one."""
    config = context.config
    check_table(context, opened)
    wanted = {"name": config.space_name, **config.space_parameters}
    space, _ = space_on_table(wanted, opened, statistic=None)
    return pose(context, space, data, opened)


def check_table(context: Context, opened: OpenedTable) -> None:
    """`UsageError` if the table was measured with something else than what is to be shipped."""
    config, table = context.config, opened.table
    if table.origin == "published":
        return
    if table.origin != "measured":
        raise UsageError(
            f"{opened.name} is {table.origin}: its latencies are of no device. "
            f"Measure one: nasdeploy profile --device {config.device}."
        )
    for name, asked, has in (
        ("runtime", config.runtime, table.runtime),
        ("precision", config.precision, table.precision),
        ("threads", config.threads, table.threads),
        ("device", context.info.fingerprint, table.fingerprint),
    ):
        if asked != has:
            raise UsageError(
                f"{opened.name} was measured with {name} {has}, and {asked} is asked for. Ask for "
                f"{has}, or measure: nasdeploy profile --device {config.device} --runtime "
                f"{config.runtime} --precision {config.precision} --threads {config.threads}."
            )


def baselines(context: Context, problem: Problem, winner: dict[str, Any]) -> list[Arch]:
    """Random architectures within the bounds that the winner was found in."""
    count = context.config.train.random_baselines
    live: list[Estimator] = [problem.estimator]
    found = random_within(
        problem.space,
        bounds_of(context, problem, live),
        count,
        seed=context.config.seed,
        exclude=tuple(winner["arch"]),
    )
    if len(found) < count:
        context.console.warn(
            f"Only {len(found)} of {count} random networks within the bounds were found."
        )
    return found


def run(context: Context, folder: RunFolder, *, replayed: Path | None = None) -> Summary:
    """Profile, search, train, export, verify, report."""
    config, console = context.config, context.console
    data = load(config)
    table = table_for_run(context, folder, data)
    problem = pose_on(context, table, data)
    measurements = Measurements(folder.measurements_path, replayed)
    winner = search(context, folder, problem, measurements)
    trained = train_winner(
        context, folder, problem.space, problem.data, winner, baselines(context, problem, winner)
    )
    files = export_winner(
        context, folder, data, winner, required=[(config.runtime, config.precision)]
    )
    measured = verify(context, folder, winner, files, measurements)
    summary = Summary(config, winner, trained, files, measured)
    write_report(summary, folder, problem)
    console.next(str(folder.path), f"open {folder.path / 'report.html'}")
    return summary


def prepare_search(
    config: RunConfig, console: Console, *, asked: Mapping[str, object]
) -> tuple[RunConfig, RunFolder, OpenedTable]:
    """Settle what a bare ``search`` leaves open, and say what was taken.

    Runtime, precision, threads and the space are the table's unless they were asked for. The run's
    name is made of what is asked, so that the same command goes on with the same run.
    """
    opened = open_table(config.table, device=config.device)
    table = opened.table
    taken: dict[str, Any] = {"table": str(opened.path) if config.table is None else config.table}
    for key, value in (
        ("runtime", table.runtime), ("precision", table.precision), ("threads", table.threads)
    ):  # fmt: skip
        if asked.get(key) is None and value is not None and table.origin == "measured":
            taken[key] = value
    if "space" not in config.model_fields_set and len({c["name"] for c in table.spaces}) == 1:
        taken["space"] = str(table.spaces[0]["name"])
    settled = config.model_copy(update=taken)
    console.log(
        f"Table {opened.name}, space {settled.space_name}, data {settled.data}, "
        f"{settled.runtime} {settled.precision}"
    )
    values = settled.model_dump(exclude={"name"})
    name = config.name or f"{settled.space_name}-{settled.search.strategy}-{digest(values)[:6]}"
    return settled, RunFolder(RUNS / name), opened


def search_only(
    context: Context, folder: RunFolder, opened: OpenedTable, *, replayed: Path | None = None
) -> dict[str, Any]:
    """Search and, where the table is of this device, measure the candidates.

    Ends with the winner's file, untrained, at the shape that was searched for.
    """
    data = load(context.config)
    problem = pose_on(context, opened, data)
    measurements = Measurements(folder.measurements_path, replayed)
    winner = search(context, folder, problem, measurements)
    arch = tuple(winner["arch"])
    jobs = network_jobs(problem.space, [arch])
    files = export_files(context, jobs, quantised_io=False, label="Exporting the winner, untrained")
    exported = files[network_id(arch)].path
    config = context.config
    path = folder.winner / f"untrained-{config.runtime}-{config.precision}{exported.suffix}"
    write_bytes(path, exported.read_bytes())
    context.console.next(
        f"{folder.path}: winner/arch.json, winner/{path.name}, pareto.csv",
        f"nasdeploy train --run {folder.path.name}",
    )
    return {**winner, "file": str(path)}


def winner_facts(winner: Mapping[str, Any]) -> dict[str, str]:
    """A search's result as a person reads it."""
    interval_ms = winner["estimated_interval_ms"]
    known = interval(*interval_ms) if interval_ms else "interval unknown: the table has no anchors"
    measured = winner["candidate"]
    bound = winner["bound_ms"]
    return {
        "bound": "none" if bound is None else f"{format_ms(bound)} ({winner['statistic']})",
        "estimated": f"{format_ms(winner['estimated_ms'])} ({known})",
        "measured": "not yet: nasdeploy verify runs the trained file on your device"
        if measured is None
        else f"{format_ms(measured['ms'])} "
        f"({interval(measured['low_ms'], measured['high_ms'])}), untrained",
        "architecture": " ".join(winner["choices"].values()),
        "file": str(winner.get("file", "")),
    }


@dataclass(frozen=True)
class OpenedRun:
    """A run that was searched, with a command's changes to its configuration."""

    folder: RunFolder
    context: Context
    winner: Mapping[str, Any]
    data: DataSet

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
            f"{folder.path} has no winner yet. Finish its search: nasdeploy run, nasdeploy search."
        )
    console.log(f"Run {folder.path}")
    return OpenedRun(folder, make_context(config, console), winner, load(config))


def train_only(opened: OpenedRun) -> dict[str, Any]:
    context, config = opened.context, opened.context.config
    table = open_table(str(opened.winner["table"]), device=config.device)
    random_archs: list[Arch] = []
    if config.train.random_baselines:
        random_archs = baselines(context, pose_on(context, table, opened.data), dict(opened.winner))
    return train_winner(
        context,
        opened.folder,
        make_space(opened.winner["space"]),
        opened.data.converted(opened.train_shape),
        opened.winner,
        random_archs,
    )


def export_only(
    opened: OpenedRun, asked: tuple[list[str] | None, list[str] | None] | None
) -> list[dict[str, Any]]:
    """Export; every file that was asked for by name must hold its parity."""
    config = opened.context.config
    if opened.folder.outputs_of("train") is None:
        raise UsageError(
            f"{opened.folder.path} has no trained winner. Train it: "
            f"nasdeploy train --run {opened.folder.path.name}"
        )
    required = [(config.runtime, config.precision)]
    if asked is not None:
        runtimes = asked[0] or [config.runtime]
        precisions = asked[1] or [config.precision]
        required = [(r, p) for r, p in wanted_files(opened.context) if r in runtimes]
        required = [(r, p) for r, p in required if p in precisions]
    return export_winner(
        opened.context, opened.folder, opened.data, opened.winner, required=required
    )


def verify_only(opened: OpenedRun) -> list[dict[str, Any]]:
    """Measure the exported files, anew at each call."""
    done = opened.folder.outputs_of("export")
    if done is None:
        raise UsageError(
            f"{opened.folder.path} has no exported files. Export them: "
            f"nasdeploy export --run {opened.folder.path.name}"
        )
    measurements = Measurements(opened.folder.measurements_path, anew=True)
    return verify(
        opened.context, opened.folder, opened.winner, done["files"], measurements, anew=True
    )
