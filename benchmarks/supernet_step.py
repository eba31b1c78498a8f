"""CPU-seconds and peak memory of a supernet step, beside a plain version of the same step.

    python benchmarks/supernet_step.py --json [--case darts] [--repeats 3]

The plain version (`plain_steps.py`) has the structure and the layout of the published codes: stock
modules, NCHW, each candidate of each edge computed for itself. It computes what ours computes, so
it has no batch norm behind pools, unlike the published DARTS. Each step runs in a process of its
own, one thread; the figures are the smallest of the repeats and, of memory, the peak above what the
process held before its first step. Steps that take paths are means over four of them.

    darts                first order, batch 64, 16 channels, 8 cells: architecture and weights
    darts-second-order   the same with the step ahead, batch 16
    pc-darts             first order, batch 64, K = 4
    proxyless-weight     one path of `mobile` at 96 px, batch 16
    proxyless-arch       two paths, one of them let through
    enas                 one path of cells of 20 channels, 8 of them, batch 64

The processor's clock, its cache and whoever else uses them move the figures, and move both sides
alike; so the ratio is what is held, and `load_average` is beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nasdeploy.device_agent.runners.loop import own_peak_rss_bytes

CASES = {
    "darts": ("darts_speedup", 5.0),
    "darts-second-order": ("darts_second_order_speedup", 4.0),
    "pc-darts": ("pc_darts_speedup", 2.5),
    "proxyless-weight": ("proxyless_weight_speedup", 2.0),
    "proxyless-arch": ("proxyless_arch_speedup", 2.3),
    "enas": ("enas_speedup", 1.5),
}
MEMORY_BAR = 0.5  # of the plain step's, for darts
SIDES = ("plain", "ours")


def measured(case: str, side: str, repeats: int) -> dict[str, float]:
    """What this process finds: the smallest CPU-seconds of a step, and the peak in MB."""
    import plain_steps
    import quick_steps
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    step = (plain_steps if side == "plain" else quick_steps).step_of(case)
    before = _now_mb()
    paths = 1 if "darts" in case else plain_steps.PATHS
    spent = []
    for _ in range(repeats + 1):
        began = time.process_time()
        step()
        spent.append((time.process_time() - began) / paths)
    # the first step allocates what the others use again
    return {"cpu_s": min(spent[1:]), "peak_mb": own_peak_rss_bytes() / 2**20 - before}


def _now_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def in_a_process(case: str, side: str, repeats: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--one", case, side, "--repeats", str(repeats)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def compared(case: str, repeats: int) -> dict[str, Any]:
    plain, ours = (in_a_process(case, side, repeats) for side in SIDES)
    name, bar = CASES[case]
    found: dict[str, Any] = {
        "case": case,
        **{f"plain_{key}": round(value, 3) for key, value in plain.items()},
        **{key: round(value, 3) for key, value in ours.items()},
        name: round(plain["cpu_s"] / ours["cpu_s"], 2),
        "bar": bar,
    }
    within = plain["cpu_s"] / ours["cpu_s"] >= bar
    memory = ours["peak_mb"] / plain["peak_mb"]
    if case == "darts":
        found |= {"darts_memory_ratio": round(memory, 3), "memory_bar": MEMORY_BAR}
        within = within and memory <= MEMORY_BAR
    return {**found, "within": within, "load_average": os.getloadavg()[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--case", choices=CASES, action="append", help="all without")
    parser.add_argument("--repeats", type=int, default=2, help="steps behind the first")
    parser.add_argument("--json", action="store_true", help="JSON lines on stdout")
    parser.add_argument("--one", nargs=2, metavar=("CASE", "SIDE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measured(arguments.one[0], arguments.one[1], arguments.repeats)))
        return
    for case in arguments.case or CASES:
        found = compared(case, arguments.repeats)
        shown = "\n".join(f"{name:28} {value}" for name, value in found.items()) + "\n"
        print(json.dumps(found) if arguments.json else shown, flush=True)


if __name__ == "__main__":
    main()
