"""How much memory a file needs: the high-water mark of a process that runs nothing else."""

from __future__ import annotations

from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.job import Graph, Job, put_graphs, run_job
from nasdeploy.device_agent.lock import device_lock
from nasdeploy.device_agent.runners.events import Bye, Event, ModelFailed
from nasdeploy.device_agent.runners.runner import Runner
from nasdeploy.errors import CommandFailed


def peak_rss_bytes(
    device: Device,
    runner: Runner,
    graph: Graph,
    *,
    threads: int = 1,
    timeout_s: float = 600.0,
) -> int:
    """What a process of its own holds at most while it loads the file and runs it twice.

    The runtime's library is part of it, as it is in the user's application.

    Raises: `CommandFailed` when the file does not run.
    """
    peaks: list[int] = []

    def take(event: Event) -> None:
        if isinstance(event, ModelFailed):
            raise CommandFailed(f"{graph.path} does not run on {device.name}: {event.message}")
        if isinstance(event, Bye):
            peaks.append(event.peak_rss_bytes)

    with device_lock(device):
        runner.prepare(device)
        run_job(
            device,
            runner,
            put_graphs(device, [graph]),
            Job(threads=threads, warmups=1, rounds=[[graph.id]]),
            timeout_s=timeout_s,
            on_event=take,
        )
    return peaks[-1]
