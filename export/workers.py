"""Worker processes that stay for many tasks: loading a converter and converting for the first time
cost up to 10 CPU-seconds.

So they also stay when there is nothing to do, for a while, and whoever has tasks next takes them.
`concurrent.futures` would do, except that it cannot say which task a dead worker had in hand, and a
converter written in C++ does die. Each worker has one task at a time and a pipe of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from nasdeploy.errors import ExportError, NasdeployError, OutOfResources

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_IDLE_S, _ENDING_S = 300.0, 10.0
_WORKER_BYTES = 1_500_000_000  # what a converter with its imports was seen to take, with some room


@dataclass(frozen=True, slots=True)
class Failed:
    """What came of a task instead of its result."""

    kind: str
    message: str

    def error(self, text: str) -> NasdeployError:
        """To raise: what ran out, or what could not be expressed."""
        kind = OutOfResources if self.kind == OutOfResources.__name__ else ExportError
        return kind(text)


@dataclass(frozen=True, slots=True)
class Task:
    """What a worker is to do.

    Attributes:
        argument: Pickled.
        kind: Of what the worker loads for it; who has done one of a kind is given the next.
    """

    argument: bytes
    kind: str


@dataclass(slots=True, eq=False)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    task: int | None = None
    kinds: set[str] = field(default_factory=set)
    idle_since: float = 0.0


_idle: list[_Worker] = []
_idle_lock = threading.Lock()
# a fork would share their pipes
os.register_at_fork(after_in_child=_idle.clear)


def worker_count(tasks: int) -> int:
    """One per core that this process may use, as far as the memory goes, and no more than tasks."""
    return max(1, min(len(os.sched_getaffinity(0)), tasks, available_bytes() // _WORKER_BYTES))


def available_bytes() -> int:
    """Memory of this machine that is free, or can be freed at once."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(OSError, StopIteration):  # it counts reclaimable caches; Linux has it
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = 1024 * int(next(x for x in lines if x.startswith("MemAvailable")).split()[1])
    return free


def run_in_workers(
    function: Callable[[Any], Any], tasks: Sequence[Task], *, workers: int, scratch: Path
) -> Iterator[tuple[int, Any | Failed]]:
    """(index, result) as tasks end; a failure is yielded too, and no task is started after it.

    Args:
        function: Importable by name; it gets a task's argument, in a process with one thread.
        tasks: In the order in which they are started, as far as kinds allow.
        scratch: Where the workers' temporary files go; the caller removes it.
    """
    pool = _taken(workers, tasks)
    try:
        waiting = list(enumerate(tasks))
        for worker in pool:
            _hand_out(worker, function, waiting, scratch)
        while busy := [worker for worker in pool if worker.task is not None]:
            ready = set(wait([w.pipe for w in busy] + [w.process.sentinel for w in busy]))
            for worker in busy:
                if worker.pipe not in ready and worker.process.sentinel not in ready:
                    continue
                task, result = worker.task, _result(worker)
                assert task is not None
                worker.task = None
                if isinstance(result, Failed):
                    waiting.clear()
                else:
                    _hand_out(worker, function, waiting, scratch)
                yield task, result
    finally:
        _given_back(pool)


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Processes that are started in here never see a Ctrl-C; this one sees it behind the block.

    What a worker sets up by itself comes too late for a Ctrl-C during its imports.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_idle() -> None:
    """End those who wait for tasks: whoever has some next starts anew."""
    with _idle_lock:
        _stop(_idle)
        _idle.clear()


def _taken(workers: int, tasks: Sequence[Task]) -> list[_Worker]:
    """Idle ones, first those that have loaded what is needed, and new ones for what is missing."""
    kinds = {task.kind for task in tasks}
    latest = time.monotonic() - _IDLE_S + _ENDING_S
    with _idle_lock:
        stay = [w for w in _idle if w.process.is_alive() and w.idle_since > latest]
        _stop([worker for worker in _idle if worker not in stay])
        stay.sort(key=lambda worker: -len(worker.kinds & kinds))
        taken, _idle[:] = stay[:workers], stay[workers:]
    return taken + _start(workers - len(taken))


def _given_back(pool: Sequence[_Worker]) -> None:
    """Who has nothing in hand stays for the next; the others would go on with what nobody wants."""
    _stop([worker for worker in pool if worker.task is not None or not worker.process.is_alive()])
    staying = [worker for worker in pool if not worker.pipe.closed]
    for worker in staying:
        worker.idle_since = time.monotonic()
    with _idle_lock:
        _idle.extend(staying)


def _start(workers: int) -> list[_Worker]:
    context = multiprocessing.get_context("spawn")
    kept = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    pool = []
    try:
        # Read once, when the library is loaded: they must be there before the child starts.
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True)
            with interrupts_blocked():
                process.start()
            theirs.close()
            pool.append(_Worker(process, ours))
    except BaseException:
        _stop(pool)
        raise
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
    return pool


def _hand_out(
    worker: _Worker,
    function: Callable[[Any], Any],
    waiting: list[tuple[int, Task]],
    scratch: Path,
) -> None:
    """The first task of a kind that the worker knows, else the first."""
    if not waiting:
        return
    known = (number for number, (_, task) in enumerate(waiting) if task.kind in worker.kinds)
    worker.task, task = waiting.pop(next(known, 0))
    worker.kinds.add(task.kind)
    # one that died meanwhile shows at its sentinel, with this task in hand
    with contextlib.suppress(OSError):
        worker.pipe.send((function, str(Path.cwd()), str(scratch.resolve()), task.argument))


def _result(worker: _Worker) -> Any | Failed:
    try:
        if worker.pipe.poll():
            return worker.pipe.recv()
    except (EOFError, OSError):
        pass
    worker.process.join()
    code = worker.process.exitcode or 0
    how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    hint = " (often: out of memory; try fewer workers)" if code == -signal.SIGKILL else ""
    return Failed("WorkerDied", f"its process ended with {how}{hint}")


def _stop(pool: Sequence[_Worker]) -> None:
    for worker in pool:
        worker.pipe.close()  # an idle one takes that as its end
        if worker.task is not None:
            worker.process.terminate()
    for worker in pool:
        worker.process.join(5)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()


def _serve(pipe: Connection) -> None:
    # blocked since the start, and a library may have lifted that by now
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # An ordinary end gives back what multiprocessing would otherwise report as leaked.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        _serve_tasks(pipe)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # it is ending


def _serve_tasks(pipe: Connection) -> None:
    # nobody has wanted anything for a while, or the parent is gone: then the pipe ends
    while pipe.poll(_IDLE_S):
        try:
            function, folder, tempfile.tempdir, argument = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            os.chdir(folder)  # paths in the argument are of the sender
            result = function(pickle.loads(argument))
        except Exception as error:
            result = Failed(type(error).__name__, str(error))
        try:
            pipe.send(result)
        except OSError:  # whoever wanted it is gone
            return
