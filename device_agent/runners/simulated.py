"""A runner that runs nothing: ``SPEC JOB`` prints the times that the specification says.

Started on a simulated device (`nasdeploy.device_agent.simulated`). A sample depends on the seed,
its round, its place in the round and its graph, and on nothing that was run before, so that going
on after a kill changes no sample.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

_SLEEP_AT_LEAST_S = 0.005


def main(spec: dict[str, Any], job: dict[str, Any]) -> None:
    simulation = _Simulation(spec, job["threads"])
    _say(
        event="hello",
        runtime=spec["runtime"],
        version="simulated",
        threads=job["threads"],
        pid=os.getpid(),
    )
    warmups = job["warmups"]
    failed = {model["id"] for model in job["models"] if not simulation.load(model["id"], warmups)}
    for number, order in enumerate(job["rounds"], start=job["first_round"]):
        for place, model in enumerate(order):
            if model not in failed:
                simulation.visit(number, place, model, job["discard"], job["repeats"])
    for entry in job["outputs"]:
        _say(event="error", model=entry["id"], message="a simulated device computes nothing")
    _say(event="bye", peak_rss_bytes=0)


class _Simulation:
    """The device's clock, and how far it has been slept through."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        self._latencies_ms: dict[str, float] = spec["latencies_ms"]
        self._behaviour: dict[str, Any] = spec["behaviour"]
        self._threads = threads
        self._owed_s = 0.0

    def load(self, model: str, warmups: int) -> bool:
        if model not in self._latencies_ms:
            _say(event="error", model=model, message="the simulated device has no latency for it")
            return False
        runs_ns = [self.base_ns(model, 0)] * warmups
        self.pass_time(runs_ns)
        _say(event="loaded", model=model, load_ms=0.0, warmup_ms=sum(runs_ns) / 1e6)
        return True

    def base_ns(self, model: str, round_number: int) -> float:
        """What a graph takes in a round, without noise."""
        behaviour = self._behaviour
        warm = 1 - math.exp(-round_number / behaviour["drift_rounds"])
        factor = 1 + behaviour["drift"] * warm
        slow = behaviour["slow_rounds"]
        if slow is not None and slow[0] <= round_number <= slow[1]:
            factor *= behaviour["slow_factor"]
        return float(self._latencies_ms[model] * 1e6 * factor)

    def visit(self, number: int, place: int, model: str, discard: int, repeats: int) -> None:
        behaviour = self._behaviour
        rng = Random(f"{behaviour['seed']}/{number}/{place}/{model}")
        base = self.base_ns(model, number)
        noisy = [
            base * math.exp(rng.gauss(0, behaviour["noise"])) for _ in range(discard + repeats)
        ]
        self.pass_time(noisy)
        wall_ns = [max(1, round(ns)) for ns in noisy[discard:]]
        thread_ns = wall_ns if self._threads == 1 else None
        _say(event="sample", round=number, model=model, wall_ns=wall_ns, thread_ns=thread_ns)

    def pass_time(self, runs_ns: list[float]) -> None:
        self._owed_s += self._behaviour["pace"] * sum(runs_ns) / 1e9
        if self._owed_s >= _SLEEP_AT_LEAST_S:
            time.sleep(self._owed_s)
            self._owed_s = 0.0


def _say(**event: Any) -> None:
    sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(*(json.loads(Path(path).read_text()) for path in sys.argv[1:3]))
