"""What is gained by writing a large depthwise convolution as a sum of small ones?

    python benchmarks/depthwise.py --json [--runtime litert] [--precision int8]

One inverted residual with a 7x7 convolution is exported whole and split, and both files are run in
turn, by the runtime's Python package and with one thread. ``speedup`` is whole over split, of 10th
percentiles; ``sqnr_db`` says how near each is to the model.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np

from nasdeploy.export.artifact import Precision
from nasdeploy.export.exporters import EXPORTERS, SUFFIX
from nasdeploy.export.parity import compare, from_layout, to_layout

if TYPE_CHECKING:
    from torch import nn

RUNTIMES = {"executorch": "ExecuTorch", "litert": "LiteRT"}
PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


def block(channels: int, kernel: int) -> nn.Module:
    import torch

    inner = 6 * channels
    return torch.nn.Sequential(
        *(torch.nn.Conv2d(channels, inner, 1), torch.nn.ReLU6()),
        *(torch.nn.Conv2d(inner, inner, kernel, 1, kernel // 2, groups=inner), torch.nn.ReLU6()),
        torch.nn.Conv2d(inner, channels, 1),
    ).eval()


@contextlib.contextmanager
def left_whole(runtime: str) -> Iterator[None]:
    with patch(f"nasdeploy.export.{runtime}.split_depthwise", lambda model, _: model):
        yield


def compared(runtime: str, precision: Precision, args: argparse.Namespace) -> dict[str, Any]:
    import torch

    from nasdeploy.export.quantise import calibration_for_latency

    torch.manual_seed(0)
    shape = (args.channels, args.pixels, args.pixels)
    model = block(args.channels, args.kernel)
    images = torch.randn(16, *shape)
    with torch.no_grad():
        wanted = model(images).numpy()
    runner = import_module(f"nasdeploy.device_agent.runners.python_{runtime}")
    opened = getattr(runner, RUNTIMES[runtime])(1)
    loaded = {}
    decibels, took = dict[str, float](), dict[str, list[float]]()
    with tempfile.TemporaryDirectory() as folder:
        for form in ("whole", "split"):
            with left_whole(runtime) if form == "whole" else contextlib.nullcontext():
                artifact = EXPORTERS[runtime](
                    model,
                    (torch.zeros(1, *shape),),
                    Path(folder) / f"{form}{SUFFIX[runtime]}",
                    precision=precision,
                    target="x86-64",
                    calibration=calibration_for_latency([shape], count=16),
                )
            loaded[form] = opened.load(str(artifact.path))
            fed = to_layout(images.numpy(), artifact.inputs[0])
            rows = [loaded[form].infer([fed[i : i + 1]])[0] for i in range(len(fed))]
            seen = compare(wanted, from_layout(np.concatenate(rows), artifact.outputs[0]))
            assert seen.sqnr_db is not None
            decibels[form], took[form] = round(seen.sqnr_db, 1), []
        for _ in range(args.runs):
            for form, file in loaded.items():
                file.prepare()
                file.run()
                before = time.perf_counter()
                file.run()
                took[form].append(time.perf_counter() - before)
    us = {form: 1e6 * float(np.percentile(times, 10)) for form, times in took.items()}
    return {
        "runtime": runtime,
        "precision": precision,
        "kernel": args.kernel,
        "speedup": round(us["whole"] / us["split"], 2),
        "us": {form: round(value, 1) for form, value in us.items()},
        "sqnr_db": decibels,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON line for each file")
    parser.add_argument("--runtime", action="append", choices=RUNTIMES)
    parser.add_argument("--precision", action="append", choices=PRECISIONS)
    parser.add_argument("--kernel", type=int, default=7)
    parser.add_argument("--channels", type=int, default=24)
    parser.add_argument("--pixels", type=int, default=24)
    parser.add_argument("--runs", type=int, default=200)
    args = parser.parse_args()
    for runtime in args.runtime or RUNTIMES:
        for precision in args.precision or PRECISIONS:
            row = compared(runtime, precision, args)
            if args.json:
                print(json.dumps(row), flush=True)
            else:
                us, db = row["us"], row["sqnr_db"]
                print(
                    f"{runtime} {precision}: whole {us['whole']} us, split {us['split']} us, "
                    f"{row['speedup']} times as fast; SQNR {db['whole']} and {db['split']} dB"
                )


if __name__ == "__main__":
    main()
