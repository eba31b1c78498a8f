"""What measuring costs beside the inferences themselves: on this machine, over ADB, over SSH.

    python benchmarks/agent_overhead.py --json [--device local --device adb --device ssh]

75 operators are measured as `nasdeploy profile` measures them: the 72 of ``mobile`` at 96 pixels
and three of it at 112. The files are exported, the runner is built and Python's libraries are
imported before; from there everything counts: the connection, pushing the runner, its library and
the operators, what the device is asked before and after, starting, loading, and every line up to
the last. ``overhead_pct`` is how much longer that takes than all inferences together, those of
warm-ups and of rejected rounds among them, by the runner's own clock.

``one_op_per_command`` is the same on another device of that kind, where each start is a command for
each operator instead of one for all: as many starts, warm-ups and runs, and no rounds in which
operators take turns, which would take a command for every visit.
``against_one_op_per_command`` is its overhead over ours.

ADB and SSH are Google's adbd and OpenSSH in namespaces of this machine (root; Debian's adbd, adb,
openssh-server). So it means something only on an idle machine with two processors.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nasdeploy import durable
from nasdeploy.device_agent.adb import AdbDevice
from nasdeploy.device_agent.device import Device
from nasdeploy.device_agent.job import Graph, Job, put_graphs, run_job
from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.measure import MeasureConfig, measure
from nasdeploy.device_agent.runners.events import Event, Loaded, Sample
from nasdeploy.device_agent.runners.runner import Runner, open_runner
from nasdeploy.durable import Journal
from nasdeploy.export.artifact import Precision
from nasdeploy.export.cache import ExportJob, export_many
from nasdeploy.export.probes import (
    EMPTY_INPUT_SHAPES,
    SENTINEL_INPUT_SHAPES,
    empty_module,
    sentinel_module,
)
from nasdeploy.pipeline.config import ProfileConfig
from nasdeploy.pipeline.stages.profile import operators_of_a_network
from nasdeploy.search.space import SearchSpace
from nasdeploy.search.spaces import make_space

BAR_PCT = 15.0
BAR_TIMES = 3.0
OPS = 75
SENTINEL, EMPTY = "sentinel", "empty"
START_TIMEOUT_S = 900.0


@dataclass(frozen=True)
class Cost:
    """Seconds: of the whole, and of the inferences in it."""

    whole_s: float
    inferences_s: float
    inferences: int

    @property
    def overhead_pct(self) -> float:
        return 100 * (self.whole_s / self.inferences_s - 1)

    def to_json(self) -> dict[str, Any]:
        return {
            "overhead_pct": round(self.overhead_pct, 2),
            "whole_s": round(self.whole_s, 3),
            "inferences_s": round(self.inferences_s, 3),
            "inferences": self.inferences,
        }


# ---- devices


@contextlib.contextmanager
def local_device(folder: Path) -> Iterator[Device]:
    yield LocalDevice(folder / "device")


@contextlib.contextmanager
def adb_device(folder: Path) -> Iterator[Device]:
    from targets.daemons import ADBD, Adbd, AdbServer

    _need("adb", str(ADBD))
    server = AdbServer.choose(folder / "home")
    before = dict(os.environ)
    os.environ.update(server.environment)
    server.adb("start-server")
    box = Adbd(folder / "adbd", phone=False, authenticates=False)
    try:
        yield AdbDevice(box.serial)
    finally:
        box.stop()
        server.stop()
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def ssh_device(folder: Path) -> Iterator[Device]:
    from targets.daemons import SSHD, Sshd

    _need(str(SSHD), "ssh-keygen")
    box = Sshd(folder / "sshd")
    try:
        yield box.device()
    finally:
        box.stop()


def _need(*tools: str) -> None:
    from targets.daemons import missing

    if absent := missing(*tools):
        raise SystemExit(f"This needs {absent}. What the tests need is what it needs: run them.")


DEVICES: dict[str, Callable[[Path], contextlib.AbstractContextManager[Device]]] = {
    "local": local_device,
    "adb": adb_device,
    "ssh": ssh_device,
}


# ---- what is measured


def mobile(pixels: int) -> SearchSpace:
    return make_space("mobile", input_shape=(3, pixels, pixels), classes=10)


def export(runtime: str, precision: Precision, ops: int) -> list[Graph]:
    """The sentinel, the empty graph and operators, from the user's cache if they are there."""
    by_key = {
        op.key: op
        for pixels in (96, 112)
        for op in sorted(mobile(pixels).all_ops(), key=lambda op: op.key)
    }
    chosen = list(by_key.values())[:ops]
    jobs = [
        ExportJob(SENTINEL, sentinel_module, SENTINEL_INPUT_SHAPES),
        ExportJob(EMPTY, empty_module, EMPTY_INPUT_SHAPES),
        *(ExportJob(str(op.key), op.build, op.input_shapes) for op in chosen),
    ]
    files = export_many(
        jobs,
        durable.cache_dir() / "exports",
        runtime=runtime,
        precision=precision,
        target=LocalDevice().info().target,
        quantised_io=precision == "int8",
        on_progress=lambda done, total, key: print(f"export {done}/{total}", file=sys.stderr),
    )
    return [Graph(key, file.path) for key, file in files.items()]


def as_a_profile_does(
    device: Device, runner: Runner, graphs: Sequence[Graph], config: MeasureConfig, journal: Path
) -> tuple[Cost, dict[str, Any]]:
    began = time.perf_counter()
    runner.check(device)
    session = measure(
        device,
        runner,
        graphs[2:],
        sentinel=graphs[0],
        empty=graphs[1],
        config=config,
        journal=Journal(journal),
        seed=0,
    )
    whole_s = time.perf_counter() - began
    session.raise_failures()
    entries = durable.read_jsonl(journal)
    runs_ns = [
        ns
        for entry in entries
        if entry["event"] == "round"
        for times in entry["samples"].values()
        for ns in times["wall_ns"]
    ]
    stops = [entry for entry in entries if entry["event"] == "stop"]
    warmup_s = sum(entry["warmup_ms"] for entry in stops) / 1e3
    warmups = len(stops) * len(graphs) * config.warmups
    cost = Cost(whole_s, sum(runs_ns) / 1e9 + warmup_s, len(runs_ns) + warmups)
    return cost, {
        "rounds": session.accepted,
        "rejected_rounds": session.rejected,
        "starts": len(stops),
        "loading_s": round(sum(sum(e["load_ms"].values()) for e in stops) / 1e3, 3),
    }


def one_op_per_command(
    device: Device, runner: Runner, graphs: Sequence[Graph], job: Job, *, runs: int, starts: int
) -> Cost:
    """Each operator pushed and started by itself; `runs` of each, in so many starts."""
    spent_s, count = 0.0, 0

    def take(event: Event) -> None:
        nonlocal spent_s, count
        if isinstance(event, Loaded):
            spent_s += event.warmup_ms / 1e3
            count += job.warmups
        elif isinstance(event, Sample):
            spent_s += sum(event.wall_ns) / 1e9
            count += len(event.wall_ns)

    began = time.perf_counter()
    runner.check(device)
    for graph in graphs:
        models = put_graphs(device, [graph])
        for _ in range(starts):
            run_job(
                device,
                runner,
                models,
                replace(job, rounds=[[graph.id] * round(runs / starts)]),
                timeout_s=START_TIMEOUT_S,
                on_event=take,
            )
    return Cost(time.perf_counter() - began, spent_s, count)


def overhead(
    kind: str, runtime: str, graphs: Sequence[Graph], config: MeasureConfig
) -> dict[str, Any]:
    runner = open_runner(runtime, say=lambda text: print(text, file=sys.stderr))
    runner.check(LocalDevice())  # builds it
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with DEVICES[kind](folder / "rounds") as device:
            ours, told = as_a_profile_does(device, runner, graphs, config, folder / "journal.jsonl")
        # a runner knows what it has pushed where by the device's name
        with DEVICES[kind](folder / "commands") as device:
            theirs = one_op_per_command(
                device,
                open_runner(runtime),
                graphs,
                Job(threads=config.threads, warmups=config.warmups),
                runs=(told["rounds"] + told["rejected_rounds"]) * config.passes,
                starts=told["starts"],
            )
    ratio = theirs.overhead_pct / ours.overhead_pct
    return {
        "device": kind,
        "runtime": runtime,
        "ops": len(graphs) - 2,
        **ours.to_json(),
        **told,
        "against_one_op_per_command": round(ratio, 2),
        "one_op_per_command": theirs.to_json(),
        "bars": {"overhead_pct": BAR_PCT, "against_one_op_per_command": BAR_TIMES},
        "within": ours.overhead_pct <= BAR_PCT and ratio >= BAR_TIMES,
        "load_average": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", choices=DEVICES, action="append", help="all without")
    parser.add_argument("--runtime", choices=["litert", "onnxruntime", "executorch"],
                        default="litert")  # fmt: skip
    parser.add_argument("--precision", choices=["fp32", "int8"], default="int8")
    parser.add_argument("--ops", type=int, default=OPS, help="how many operators at most")
    parser.add_argument("--json", action="store_true", help="JSON lines on stdout")
    arguments = parser.parse_args()
    graphs = export(arguments.runtime, arguments.precision, arguments.ops)
    profile = ProfileConfig()
    config = MeasureConfig(
        chain=operators_of_a_network(mobile(96)),
        min_samples=profile.min_samples,
        min_duration_s=profile.min_duration_s,
    )
    import adbutils  # noqa: F401, as what comes with the program
    import paramiko  # noqa: F401

    # the boxes with the daemons are the tests'
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    for kind in arguments.device or DEVICES:
        found = overhead(kind, arguments.runtime, graphs, config)
        print(json.dumps(found) if arguments.json else _shown(found), flush=True)


def _shown(found: dict[str, Any]) -> str:
    return "\n".join(f"{name:28} {value}" for name, value in found.items()) + "\n"


if __name__ == "__main__":
    main()
