"""The side of a Python runner that is the same for every runtime: a job in, JSON lines out.

This runs on the device, so it imports no more than numpy. The protocol is described in
`nasdeploy.device_agent.runners`.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import numpy as np
import numpy.typing as npt

from nasdeploy import durable

Array = npt.NDArray[Any]


class LoadedModel(Protocol):
    """One file, ready to run on inputs of its own making."""

    def prepare(self) -> None:
        """Put the inputs in place. Not timed."""
        ...

    def run(self) -> None:
        """The timed call: the inference and as little else as the runtime lets us."""
        ...

    def infer(self, inputs: Sequence[Array]) -> list[Array]:
        """float32 arrays of one image each in, float32 arrays out."""
        ...


class Runtime(Protocol):
    """What a runtime's file defines; made only when its process has started."""

    version: str

    def load(self, path: str) -> LoadedModel: ...


def sample_input(shape: Sequence[int], dtype: npt.DTypeLike) -> Array:
    """An input to time on: seeded noise over the type's range, since zeros can be faster."""
    rng = np.random.default_rng(0)
    kind = np.dtype(dtype)
    if kind.kind in "iu":
        limits = np.iinfo(kind)
        return rng.integers(limits.min, limits.max, size=tuple(shape), dtype=kind, endpoint=True)
    return rng.uniform(-1.0, 1.0, size=tuple(shape)).astype(kind)


def quantised(real: Array, dtype: npt.DTypeLike, scale: float, zero_point: int) -> Array:
    limits = np.iinfo(np.dtype(dtype))
    stored = np.round(real / scale) + zero_point
    return np.clip(stored, limits.min, limits.max).astype(dtype)


def dequantised(stored: Array, scale: float, zero_point: int) -> Array:
    return ((stored.astype(np.float32) - zero_point) * scale).astype(np.float32)


def main(name: str, open_runtime: Callable[[int], Runtime]) -> None:
    """Entry of a runner's process: ``JOB`` carries out a job, ``--version`` says the version.

    Args:
        open_runtime: Called with the number of threads; imports the runtime.
    """
    lines = _claim_stdout()
    if sys.argv[1:] == ["--version"]:
        _print(lines, event="hello", runtime=name, version=open_runtime(1).version)
        return
    job = json.loads(Path(sys.argv[1]).read_text())
    threads = int(job["threads"])
    runtime = open_runtime(threads)
    _print(
        lines,
        event="hello",
        runtime=name,
        version=runtime.version,
        threads=threads,
        pid=os.getpid(),
    )
    _Work(runtime, job, lines).carry_out()
    _print(lines, event="bye", peak_rss_bytes=own_peak_rss_bytes())


def own_peak_rss_bytes() -> int:
    """What this process has held at most: the kernel's own high-water mark.

    Not ``ru_maxrss``, which also counts what the process that started this one held then.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _claim_stdout() -> TextIO:
    """stdout for our lines alone: what a runtime's own code prints goes to stderr instead."""
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lines


def _print(lines: TextIO, **event: Any) -> None:
    lines.write(json.dumps(event, separators=(",", ":")) + "\n")
    lines.flush()


class _Work:
    """A job being carried out. A model that fails is named once and left out from then on."""

    def __init__(self, runtime: Runtime, job: dict[str, Any], lines: TextIO) -> None:
        self._runtime = runtime
        self._job = job
        self._lines = lines
        self._models: dict[str, LoadedModel] = {}

    def carry_out(self) -> None:
        for entry in self._job["models"]:
            self._load(entry["id"], entry["path"])
        for number, order in enumerate(self._job["rounds"], start=self._job["first_round"]):
            for model in order:
                self._visit(number, model)
        for entry in self._job["outputs"]:
            self._write_outputs(entry["id"], entry["inputs"], entry["outputs"])

    def _load(self, model: str, path: str) -> None:
        started = time.perf_counter_ns()
        try:
            loaded = self._runtime.load(path)
            load_ms = (time.perf_counter_ns() - started) / 1e6
            warming = time.perf_counter_ns()
            for _ in range(self._job["warmups"]):
                loaded.prepare()
                loaded.run()
            warmup_ms = (time.perf_counter_ns() - warming) / 1e6
        except Exception as error:
            self._fail(model, error)
            return
        self._models[model] = loaded
        _print(self._lines, event="loaded", model=model, load_ms=load_ms, warmup_ms=warmup_ms)

    def _visit(self, number: int, model: str) -> None:
        loaded = self._models.get(model)
        if loaded is None:
            return
        try:
            wall_ns, thread_ns = timed(loaded, self._job["discard"], self._job["repeats"])
        except Exception as error:
            self._fail(model, error)
            return
        _print(
            self._lines,
            event="sample",
            round=number,
            model=model,
            wall_ns=wall_ns,
            # with more threads than one, this thread's time says little about the work done
            thread_ns=thread_ns if self._job["threads"] == 1 else None,
        )

    def _write_outputs(self, model: str, inputs: Sequence[str], outputs: str) -> None:
        loaded = self._models.get(model)
        if loaded is None:
            return
        try:
            arrays = [np.load(path, allow_pickle=False) for path in inputs]
            images = zip(*(np.split(a, len(a)) for a in arrays), strict=True)
            rows = [loaded.infer(image) for image in images]
            columns = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
        except Exception as error:
            self._fail(model, error)
            return
        paths = [f"{outputs}{i}.npy" for i in range(len(columns))]
        for path, column in zip(paths, columns, strict=True):
            with durable.replacing(Path(path)) as temporary, temporary.open("wb") as file:
                np.save(file, column)
        _print(self._lines, event="outputs", model=model, paths=paths)

    def _fail(self, model: str, error: Exception) -> None:
        self._models.pop(model, None)
        message = f"{type(error).__name__}: {error}"[:2000]
        _print(self._lines, event="error", model=model, message=message)


def timed(model: LoadedModel, discard: int, repeats: int) -> tuple[list[int], list[int]]:
    """Wall and thread-CPU nanoseconds of `repeats` runs, after `discard` runs that don't count."""
    wall_ns, thread_ns = [], []
    prepare, run = model.prepare, model.run
    wall, thread = time.perf_counter_ns, time.thread_time_ns
    collecting = gc.isenabled()
    gc.disable()
    try:
        for _ in range(discard):
            prepare()
            run()
        for _ in range(repeats):
            prepare()
            thread_before = thread()
            wall_before = wall()
            run()
            wall_after = wall()
            thread_ns.append(thread() - thread_before)
            wall_ns.append(wall_after - wall_before)
    finally:
        if collecting:
            gc.enable()
    return wall_ns, thread_ns
