"""All of it, stage after stage: what ``nasdeploy run`` and ``nasdeploy search`` do.

Each stage is skipped while its inputs are the same, so running the same command again goes on
where it was stopped, by whatever it was stopped. What can be refused is refused before anything is
written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nasdeploy
from nasdeploy.durable import write_bytes
from nasdeploy.errors import (
    INTERRUPTED_EXIT_CODE,
    BadInput,
    NasdeployError,
    OutOfResources,
    UsageError,
)
from nasdeploy.latency_tables.table import LatencyTable, Origin
from nasdeploy.pipeline.config import RunConfig, write_config
from nasdeploy.pipeline.console import Console
from nasdeploy.pipeline.data import DataSet, load_data
from nasdeploy.pipeline.estimating import OpenedTable, open_table, space_on_table
from nasdeploy.pipeline.measuring import Measurements
from nasdeploy.pipeline.opening import open_named
from nasdeploy.pipeline.project import newest_table
from nasdeploy.pipeline.report import Summary, interval, marked, write_report
from nasdeploy.pipeline.run_folder import RUNS, RunFolder, digest, git_revision, now
from nasdeploy.pipeline.stages.baselines import (
    TrainedBeside,
    baseline_jobs,
    beside_others,
    random_within,
    train_baselines,
)
from nasdeploy.pipeline.stages.context import Context
from nasdeploy.pipeline.stages.export import export_winner
from nasdeploy.pipeline.stages.files import (
    export_files,
    exported_otherwise,
    network_id,
    network_jobs,
)
from nasdeploy.pipeline.stages.problem import Problem, bounds_of, live_estimators, pose
from nasdeploy.pipeline.stages.profile import profile, rounds_path
from nasdeploy.pipeline.stages.search import search
from nasdeploy.pipeline.stages.train import train_winner
from nasdeploy.pipeline.stages.training_jobs import make_train_settings
from nasdeploy.pipeline.stages.verify import verify
from nasdeploy.search.space import Arch, SearchSpace
from nasdeploy.search.spaces import make_space
from nasdeploy.search.strategies import make_settings
from nasdeploy.units import format_ms

OWN_TABLE = "table.yaml"


def make_context(config: RunConfig, console: Console, *, resume: bool = True) -> Context:
    opened = open_named(
        config.device, cpus=config.cpus, max_temp_c=config.max_temp_c, runner=config.runner
    )
    return Context(config, opened, console, resume=resume)


@contextmanager
def held(folder: RunFolder, config: RunConfig) -> Iterator[None]:
    """Hold the run's folder, and write down what was asked and how the command ended."""
    with folder.only_me():
        write_config(config, folder.config_path)
        folder.save(
            nasdeploy=nasdeploy.__version__,
            seed=config.seed,
            git=git_revision(),
            started=now(),
            ended=None,
            exit=None,
        )
        code = 1
        try:
            yield
            code = 0
        except NasdeployError as error:
            code = error.exit_code
            raise
        except KeyboardInterrupt:
            code = INTERRUPTED_EXIT_CODE
            raise
        finally:
            with contextlib.suppress(OutOfResources):  # the error that is under way says it too
                folder.save(exit=code, ended=now())


def load(config: RunConfig) -> DataSet:
    """The run's images, at their own shape; at the space's where their sizes are mixed."""
    root = Path(config.data_root) if config.data_root else None
    given = config.space_parameters.get("input_shape")
    shape = (given[0], given[1], given[2]) if given and config.data.startswith("folder:") else None
    return load_data(
        config.data, root=root, seed=config.seed, input_shape=shape, images=config.images
    )


def space_for(config: RunConfig, data: DataSet | None) -> SearchSpace:
    """The space at the deployment of the configuration, else at that of the data."""
    parameters = dict(config.space_parameters)
    if data is not None:
        parameters.setdefault("input_shape", list(data.input_shape))
        parameters.setdefault("classes", len(data.classes))
    return make_space(config.space_name, **parameters)


def check_request(config: RunConfig, replayed: Path | None) -> None:
    """Refuse at once what would only be found out after minutes of work."""
    if not config.bounds.any:
        raise UsageError("A search needs a bound: --latency 100ms, --max-params 3M, ...")
    check_settings(config)
    if replayed is not None and not replayed.is_file():
        raise BadInput(f"There are no measurements in {replayed}.")


def check_settings(config: RunConfig) -> None:
    """Refuse names and numbers of which nothing can be made."""
    make_space(config.space_name, **config.space_parameters)
    make_settings(config.search.strategy, config.search.settings, evaluator=config.search.evaluator)
    make_train_settings(config.train.settings, seed=config.seed)
    supernet = config.search.supernet
    if supernet is not None and not Path(supernet).is_file():
        raise UsageError(f"There is no supernet {supernet}; a search writes runs/NAME/supernet.pt.")


def table_for_run(context: Context, folder: RunFolder, data: DataSet) -> OpenedTable:
    """The table of the run's own device, measured into its folder."""
    config = context.config
    path = folder.path / OWN_TABLE
    space = space_for(config, data)
    measured = {
        "space": dict(space.config),
        "device": context.info.fingerprint,
        "runtime": [config.runtime, config.precision, config.threads, context.opened.runner_choice],
        "anchors": config.profile.anchors,
        "seed": config.seed,
    }
    inputs = {**measured, "profile": config.profile.model_dump(exclude={"workers"})}
    if folder.done("profile", inputs) is not None:
        context.console.log("profile: done already, its inputs are unchanged")
    else:
        aside = folder.begin("profile", measured, path, rounds_path(path))
        context.console.set_aside("The earlier profile", aside)
        profile(context, space, path)
        folder.finish("profile", inputs, {}, path)
    return open_table(path)


def pose_on(context: Context, opened: OpenedTable | None, data: DataSet) -> Problem:
    """The problem on a table; the table's deployment is the default one, else that of the data."""
    config = context.config
    if opened is None:
        return pose(context, space_for(config, data), data, None)
    check_table(context, opened)
    wanted = {"name": config.space_name, **config.space_parameters}
    space = space_on_table(wanted, opened)
    other = [] if opened.table.origin == "published" else exported_otherwise(space, opened.table)
    if other:
        context.console.warn(
            f"{len(other)} operators of {opened.name} were exported by other versions than would "
            "export a network now, so that estimates may be off. Measure them again: nasdeploy "
            f"profile --device {config.device} --runtime {config.runtime} "
            f"--precision {config.precision} --overwrite"
        )
    return pose(context, space, data, opened)


def check_table(context: Context, opened: OpenedTable) -> None:
    """`UsageError` if the table was measured with something else than what is to be shipped."""
    config, table = context.config, opened.table
    if table.origin == "published":
        return
    check_origin(config, opened.name, table.origin)
    for name, asked, has in (
        ("runtime", config.runtime, table.runtime),
        ("precision", config.precision, table.precision),
        ("threads", config.threads, table.threads),
        ("device", context.info.fingerprint, table.fingerprint),
        *_runners(context, table),
    ):
        if asked != has:
            raise UsageError(
                f"{opened.name} was measured with {name} {has}, and {asked} is asked for. Ask for "
                f"{has}, or measure: nasdeploy profile --device {config.device} --runtime "
                f"{config.runtime} --precision {config.precision} --threads {config.threads}."
            )


def _runners(context: Context, table: LatencyTable) -> list[tuple[str, str, str]]:
    """What runs a file there, and what ran the operators of the table."""
    kind = context.runner.kind(context.device)
    # a table that does not name one is of the time when there were only those in Python
    return [("runner", kind, s.get("runner", "python")) for s in table.sessions.values()]


def check_origin(config: RunConfig, what: str, origin: Origin) -> None:
    """`UsageError` where a search would stand on times that are no measurement, unasked."""
    if origin in ("simulated", "emulated") and not config.allow_simulated:
        raise UsageError(
            f"{what} is {origin}: its latencies are of no device. Measure one: nasdeploy profile "
            "--device NAME; or, to try things, add --allow-simulated."
        )


def baselines(
    context: Context, problem: Problem, winner: Mapping[str, Any] | None = None
) -> list[Arch]:
    """Random architectures, none of them the winner, within the bounds that it was found in; before
    there is a winner, those that it will most likely be held against."""
    count = context.config.train.random_baselines
    if not count:
        return []
    found = random_within(
        problem.space,
        bounds_of(context, problem, live_estimators(problem)),
        count,
        seed=context.config.seed,
        exclude=None if winner is None else tuple(winner["arch"]),
    )
    if winner is not None and len(found) < count:
        context.console.warn(
            f"Only {len(found)} of {count} random networks within the bounds were found."
        )
    return found


def _trained_beside(context: Context, folder: RunFolder, problem: Problem) -> TrainedBeside:
    return beside_others(
        context,
        lambda: baseline_jobs(
            context, folder, problem.space, problem.data, baselines(context, problem)
        ),
    )


def run(
    config: RunConfig, console: Console, path: Path, *, replayed: Path | None = None
) -> Summary:
    """Profile, search, train, export, verify, report."""
    check_request(config, replayed)
    context = make_context(config, console)
    check_origin(config, f"The device {config.device}", context.origin)
    data = load(config)
    given = open_table(config.table) if config.table is not None else None
    problem = pose_on(context, given, data) if given is not None else None
    folder = RunFolder(path)
    with held(folder, config):
        if problem is None:
            problem = pose_on(context, table_for_run(context, folder, data), data)
        measurements = Measurements(folder.measurements_path, replayed)
        with _trained_beside(context, folder, problem) as beside:
            winner = search(context, folder, problem, measurements, beside=beside)
            beside.start()  # where the search was done already
            others = baseline_jobs(
                context, folder, problem.space, problem.data, baselines(context, problem, winner)
            )
            trained = train_winner(
                context, folder, problem.data, winner, () if beside.active else others
            )
            required = [(config.runtime, config.precision)]
            files = export_winner(context, folder, data, winner, required=required)
            trained |= train_baselines(context, folder, problem.data, others, beside)
        measured = verify(context, folder, winner, files, measurements)
        summary = Summary(config, winner, trained, files, measured)
        write_report(summary, folder, problem)
    return summary


def settle_search(
    config: RunConfig, console: Console, *, asked: Mapping[str, Any]
) -> tuple[RunConfig, OpenedTable]:
    """Settle what a bare ``search`` leaves open, and say what was taken.

    Args:
        asked: Runtime, precision and threads where somebody named them; else they are the table's,
            like the space.
    """
    path = config.table or newest_table(config.device, **asked)
    opened = open_table(path)
    table = opened.table
    taken: dict[str, Any] = {"table": str(path)}
    for key in ("runtime", "precision", "threads"):
        value = getattr(table, key)
        if key not in asked and value is not None and table.origin != "published":
            taken[key] = value
    if "space" not in config.model_fields_set and len({c["name"] for c in table.spaces}) == 1:
        own = dict(table.spaces[0])
        taken["space"] = own if "kind" in own else str(own["name"])
    settled = config.model_copy(update=taken)
    origin = "" if table.origin == "measured" else f" ({table.origin})"
    console.log(
        f"Table {opened.name} of {table.device}{origin}, space {settled.space_name}, "
        f"data {settled.data}, to ship as {settled.runtime} {settled.precision}"
    )
    return settled, opened


def search_folder(config: RunConfig) -> Path:
    """Of the name that was given, else one that the same command finds again."""
    values = config.model_dump(exclude={"name"})
    name = config.name or f"{config.space_name}-{config.search.strategy}-{digest(values)[:6]}"
    return RUNS / name


def search_only(
    config: RunConfig,
    console: Console,
    opened: OpenedTable,
    *,
    replayed: Path | None = None,
) -> tuple[RunFolder, dict[str, Any]]:
    """Search and, where the table is of this device, measure the candidates.

    Ends with the winner's file, untrained, at the shape that was searched for.
    """
    check_request(config, replayed)
    context = make_context(config, console)
    problem = pose_on(context, opened, load(config))
    folder = RunFolder(search_folder(config))
    with held(folder, config):
        measurements = Measurements(folder.measurements_path, replayed)
        winner = search(context, folder, problem, measurements)
        file = _untrained(context, folder, problem.space, tuple(winner["arch"]))
    return folder, {**winner, "file": str(file)}


def search_architecture(
    config: RunConfig, console: Console, opened: OpenedTable | None
) -> tuple[RunFolder, dict[str, Any]]:
    """The search alone: it may do without a bound and a table, and no file comes of it."""
    check_settings(config)
    context = make_context(config, console)
    problem = pose_on(context, opened, load(config))
    folder = RunFolder(search_folder(config))
    with held(folder, config):
        return folder, search(context, folder, problem, Measurements(folder.measurements_path))


def search_seeds(
    config: RunConfig,
    console: Console,
    opened: OpenedTable,
    seeds: int,
    *,
    replayed: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """The same search with one seed after another, each in a folder of its own; by its name."""
    base = search_folder(config).name
    found = {}
    for seed in range(config.seed, config.seed + seeds):
        one = config.model_copy(update={"seed": seed, "name": f"{base}-seed{seed}"})
        console.log(f"Seed {seed}: {search_folder(one)}")
        folder, winner = search_only(one, console, opened, replayed=replayed)
        found[folder.path.name] = winner
    return found


def _untrained(context: Context, folder: RunFolder, space: SearchSpace, arch: Arch) -> Path:
    """The winner's file with random weights: for a look at it, and for measuring it elsewhere."""
    jobs = network_jobs(space, [arch])
    files = export_files(context, jobs, quantised_io=False, label="Exporting the winner, untrained")
    exported = files[network_id(arch)].path
    config = context.config
    path = folder.winner / f"untrained-{config.runtime}-{config.precision}{exported.suffix}"
    write_bytes(path, exported.read_bytes())
    return path


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
        f"({interval(measured['low_ms'], measured['high_ms'])}), untrained{marked(measured)}",
        "architecture": " ".join(winner["choices"].values()),
        "file": str(winner["file"]),
    }
