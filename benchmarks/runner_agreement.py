"""Do the native runners and the runtimes' own Python packages take the same time?

    python benchmarks/runner_agreement.py --json [--runtime litert] [--precision int8]

One network is run by both in one interleaved run: short process starts of either kind, in random
order, so that what the machine does meanwhile meets both, and so that both get as many draws of
what a start fixes (where in memory things lie). Compared are 10th percentiles of the calling
thread's time, with one thread; the wall time stands beside it, and on a busy machine it says less.
``thread_ratio`` is native over Python; ``within`` says whether it is off 1 by no more than 3
percent. Without ``--runtime`` and ``--precision`` all of them are compared.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.device_agent.runners.events import Sample, parse_event
from nasdeploy.device_agent.runners.runner import RUNTIMES, Runner, open_runner
from nasdeploy.export.artifact import Precision
from nasdeploy.export.exporters import EXPORTERS, SUFFIX

LIMIT = 0.03
KINDS = ("native", "python")
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
STARTS = 6
TIMEOUT_S = 300.0


def export_network(runtime: str, precision: Precision, pixels: int, path: Path) -> None:
    """torchvision's mobilenet_v2 with random weights: latency hardly depends on them."""
    import torch
    from torchvision.models import mobilenet_v2

    from nasdeploy.export.quantise import calibration_for_latency

    torch.manual_seed(0)
    shape = (3, pixels, pixels)
    EXPORTERS[runtime](
        mobilenet_v2(weights=None, num_classes=10).eval(),
        (torch.zeros(1, *shape),),
        path,
        precision=precision,
        target=LocalDevice().info().target,
        calibration=calibration_for_latency([shape]) if precision == "int8" else None,
    )


def run_start(device: LocalDevice, runner: Runner, path: Path, visits: int) -> list[Sample]:
    """The samples of one process that visits the file so many times."""
    job = {
        "threads": 1, "models": [{"id": "net", "path": str(path)}], "warmups": 10,
        "rounds": [["net"]] * visits, "repeats": 2, "discard": 1, "first_round": 0, "outputs": [],
    }  # fmt: skip
    place = Path(device.workdir) / f"{runner.kind(device)}.json"
    place.write_text(json.dumps(job))
    samples: list[Sample] = []

    def take(line: str) -> None:
        event = parse_event(line)
        if isinstance(event, Sample):
            samples.append(event)

    done = device.run(runner.argv(device, str(place)), timeout_s=TIMEOUT_S, on_line=take)
    if done.exit_code != 0:
        raise SystemExit(done.stderr)
    return samples


def agreement(runtime: str, precision: Precision, rounds: int, pixels: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"net{SUFFIX[runtime]}"
        export_network(runtime, precision, pixels, path)
        device = LocalDevice(Path(name) / "device")
        runners = {kind: open_runner(runtime, kind) for kind in KINDS}
        for runner in runners.values():
            runner.prepare(device)
        times: dict[str, list[Sample]] = {kind: [] for kind in KINDS}
        order = random.Random(0)
        for _ in range(STARTS):
            for kind in order.sample(KINDS, len(KINDS)):
                times[kind] += run_start(device, runners[kind], path, -(-rounds // STARTS))
    result: dict[str, Any] = {"runtime": runtime, "precision": precision, "pixels": pixels}
    for clock in ("thread", "wall"):
        low_ms = {kind: _p10_ms(times[kind], clock) for kind in KINDS}
        result |= {f"{kind}_{clock}_p10_ms": round(ms, 5) for kind, ms in low_ms.items()}
        result[f"{clock}_ratio"] = round(low_ms["native"] / low_ms["python"], 4)
    result["samples"] = {kind: 2 * len(times[kind]) for kind in KINDS}
    result["within"] = abs(result["thread_ratio"] - 1) <= LIMIT
    return result


def _p10_ms(samples: list[Sample], clock: str) -> float:
    values = [ns for sample in samples for ns in getattr(sample, f"{clock}_ns")]
    return float(np.quantile(values, 0.1)) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runtime", choices=RUNTIMES, action="append", help="all without")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="both without")
    parser.add_argument("--rounds", type=int, default=120, help="visits of each kind")
    parser.add_argument("--pixels", type=int, default=224)
    parser.add_argument("--json", action="store_true", help="JSON lines on stdout")
    arguments = parser.parse_args()
    for runtime in arguments.runtime or RUNTIMES:
        for precision in arguments.precision or PRECISIONS:
            found = agreement(runtime, precision, arguments.rounds, arguments.pixels)
            print(json.dumps(found) if arguments.json else _shown(found), flush=True)


def _shown(found: dict[str, Any]) -> str:
    return "\n".join(f"{name:22} {value}" for name, value in found.items()) + "\n"


if __name__ == "__main__":
    main()
