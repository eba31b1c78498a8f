"""One start of a runner: files to the device, the job beside them, events as they come."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nasdeploy import durable
from nasdeploy.device_agent.device import Device, Finished
from nasdeploy.device_agent.runners.events import Bye, Event, Hello, parse_event
from nasdeploy.device_agent.runners.runner import Runner
from nasdeploy.errors import BadInput, CommandFailed

_STDERR_LINES = 5


@dataclass(frozen=True, slots=True)
class Graph:
    """A file to measure.

    Attributes:
        id: How samples are told apart; an operator's key, or a network's name.
        sha256: Of the file's content, read when this is made.
    """

    id: str
    path: Path
    sha256: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise BadInput(f"{self.id} has no file {self.path}. Export it first: nasdeploy export")
        object.__setattr__(self, "sha256", durable.sha256_file(self.path))


@dataclass(frozen=True, slots=True)
class Job:
    """What one start carries out; `runners` says what the fields mean."""

    threads: int = 1
    warmups: int = 0
    rounds: Sequence[Sequence[str]] = ()
    repeats: int = 1
    discard: int = 0
    first_round: int = 0
    outputs: Sequence[Mapping[str, Any]] = ()


def put_graphs(device: Device, graphs: Sequence[Graph]) -> list[dict[str, str]]:
    """Push what isn't there yet, named by content; returns the ``models`` of a job."""
    folder = f"{device.workdir}/models"
    remote = [f"{folder}/{graph.sha256[:32]}{graph.path.suffix}" for graph in graphs]
    device.push_all([(graph.path, path) for graph, path in zip(graphs, remote, strict=True)])
    return [{"id": graph.id, "path": path} for graph, path in zip(graphs, remote, strict=True)]


def run_job(
    device: Device,
    runner: Runner,
    models: Sequence[Mapping[str, str]],
    job: Job,
    *,
    timeout_s: float,
    on_event: Callable[[Event], None],
    where: Callable[[], str] = lambda: "",
) -> None:
    """Start the runner and hand over its events as they come.

    Args:
        where: Asked only when it failed: what it was doing, such as "while loading op12".
    Raises: `CommandFailed` when it ends without its "bye", is another runtime than was asked for,
        or says what isn't of the protocol.
    """
    remote = f"{device.workdir}/job.json"
    content: dict[str, Any] = {
        "threads": job.threads,
        "models": list(models),
        "warmups": job.warmups,
        "rounds": [list(order) for order in job.rounds],
        "repeats": job.repeats,
        "discard": job.discard,
        "first_round": job.first_round,
        "outputs": [dict(entry) for entry in job.outputs],
    }
    with tempfile.TemporaryDirectory() as folder:
        local = Path(folder) / "job.json"
        durable.write_json(local, content)
        device.push(local, remote)

    said_bye = False

    def take(line: str) -> None:
        nonlocal said_bye
        event = parse_event(line)
        if isinstance(event, Hello) and event.runtime != runner.runtime:
            raise CommandFailed(f"{event.runtime} answered where {runner.runtime} was started.")
        said_bye = isinstance(event, Bye)
        on_event(event)

    done = device.run(runner.argv(device, remote), timeout_s=timeout_s, on_line=take)
    if done.exit_code != 0 or not said_bye:
        raise CommandFailed(_why(device, runner, done, where()))


def _why(device: Device, runner: Runner, done: Finished, where: str) -> str:
    if done.exit_code < 0:
        how = f"was killed by signal {-done.exit_code}"
        if done.exit_code == -9:
            how += " (often: out of memory)"
    else:
        how = f"ended with exit code {done.exit_code}"
    last = " | ".join(done.stderr.strip().splitlines()[-_STDERR_LINES:])
    return (
        f"The {runner.runtime} runner on {device.name} {how} {where}. It said: {last or 'nothing'}"
    )
