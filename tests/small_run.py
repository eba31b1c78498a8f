"""A run that is small enough for a test: real images, a real device, eight architectures."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from nasdeploy.device_agent.local import LocalDevice
from nasdeploy.latency_tables.rows import Row
from nasdeploy.latency_tables.table import LatencyTable, write_table
from nasdeploy.pipeline.data import SHIPPED
from nasdeploy.search.counters import counted_values
from nasdeploy.search.space import SearchSpace
from nasdeploy.search.spaces import make_space


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ended]

SRC = Path(__file__).resolve().parent.parent / "src"
SPACE: dict[str, Any] = {
    "name": "mobile-small",
    "stages": [[16, 1, 2]],
    "kernels": [3, 5],
    "expansions": [2, 3],
    "stem": 8,
    "first": 8,
    "features": 16,
}
CONFIG: dict[str, Any] = {
    "runtime": "onnxruntime",
    "precision": "fp32",
    "space": SPACE,
    "data": "tiny.npz",
    "bounds": {"latency": "5ms", "statistic": "p10"},
    "profile": {"min_samples": 10, "min_duration_s": 0.1, "anchors": 3, "workers": 1},
    "verify": {"min_samples": 10, "min_duration_s": 0.1, "wait_s": 2},
    "search": {
        "batch_size": 32,
        "settings": {"warmup_epochs": 1, "search_epochs": 2},
        "finalists": 2,
    },
    "train": {"settings": {"epochs": 2}, "workers": 1},
    "export": {"precisions": ["fp32"], "test_images": 100},
}


def write_tiny_npz(path: Path, *, per_class: int = 30) -> None:
    """The first images of each class of the shipped Fashion-MNIST."""
    with np.load(SHIPPED) as whole:
        train, test = (
            np.concatenate([np.flatnonzero(whole[y] == label)[:n] for label in range(10)])
            for y, n in (("y_train", per_class), ("y_test", 10))
        )
        np.savez_compressed(
            path,
            x_train=whole["x_train"][train], y_train=whole["y_train"][train],
            x_test=whole["x_test"][test], y_test=whole["y_test"][test],
            labels=whole["labels"],
        )  # fmt: skip


def write_config(path: Path, **changes: Any) -> None:
    """`CONFIG` with `changes` on top; a section is replaced field by field."""
    values = dict(CONFIG)
    for name, value in changes.items():
        is_section = isinstance(value, dict) and name != "space"
        values[name] = {**values.get(name, {}), **value} if is_section else value
    path.write_text(yaml.safe_dump(values))


def small_space() -> SearchSpace:
    return make_space(SPACE, input_shape=[1, 28, 28], classes=10)


def write_small_table(path: Path, *, lean_is_slow: bool = False, **header: Any) -> None:
    """A table of the small space; each operator takes 0.01 ms and 1 ms per million operations.

    Or, where `lean_is_slow`, 1 ms less 1 ms per million: such a device there is not.
    """
    space = small_space()
    rows = {}
    for key, macs in counted_values(space, "macs").items():
        ms = 1 - macs / 1e6 if lean_is_slow else 0.01 + macs / 1e6
        rows[key] = Row(n=50, min_ms=ms, p10_ms=ms, median_ms=ms, p90_ms=ms, p95_ms=ms, mean_ms=ms)
    fields: dict[str, Any] = {
        "device": "pixel9",
        "runtime": "onnxruntime",
        "precision": "fp32",
        "threads": 1,
        "origin": "published",
        **header,
    }
    write_table(LatencyTable(ops=rows, spaces=(dict(space.config),), **fields), path)


def of_this_machine() -> dict[str, Any]:
    """The header of a table that was measured here."""
    return {
        "device": "local",
        "origin": "measured",
        "fingerprint": LocalDevice().info().fingerprint,
    }


def environment() -> dict[str, str]:
    """For a command line of its own: one thread, this source tree."""
    return {**os.environ, "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}


def start(*arguments: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "nasdeploy", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
