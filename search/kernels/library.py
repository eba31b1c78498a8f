"""The kernels in C++: compiled once with the machine's compiler, kept in the cache.

Where there is no compiler the stock operators are used, which one log line says. Whoever calls a
kernel has asked `library` before and handed it dense float32 tensors in channels_last.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from nasdeploy.durable import cache_dir, replacing

FOLDER = Path(__file__).parent
_FLAGS = ("-O3", "-march=native", "-std=c++20", "-fPIC", "-pthread")
_COMPILE_TIMEOUT_S = 300.0
# malloc.h: M_MMAP_THRESHOLD, as high as it goes, and M_TRIM_THRESHOLD
_MALLOC_OPTIONS = ((-3, 32 * 2**20), (-1, 2**31 - 1))
_log = logging.getLogger(__name__)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there are none; off with ``NASDEPLOY_KERNELS=0``."""
    if os.environ.get("NASDEPLOY_KERNELS") == "0":
        return None
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("c++")
    if compiler is None:
        _log.warning("no C++ compiler: training takes the stock operators, and more time")
        return None
    try:
        found = ctypes.CDLL(str(_built(compiler)))
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("the fast kernels cannot be built, the stock operators are taken: %s", error)
        return None
    _keep_what_is_freed()
    return found


def _keep_what_is_freed() -> None:
    """Let this process not give memory back to the kernel: the next step asks for the same again.

    glibc maps large tensors anew each time, and having fresh pages is a noticeable part
    of a training step of small networks. Other C libraries are left as they are.
    """
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _MALLOC_OPTIONS:
            mallopt(ctypes.c_int(option), ctypes.c_int(value))


def loaded() -> ctypes.CDLL:
    """The compiled kernels, for whoever knows that they are there."""
    kernels = library()
    if kernels is None:
        raise RuntimeError("The kernels are not there; ask library() before")
    return kernels


def serves(x: Tensor) -> bool:
    """Whether a tensor can be handed to the kernels."""
    return (
        x.ndim == 4
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # type: ignore[no-untyped-call, attr-defined]
        and library() is not None
    )


def address(tensor: Tensor | None) -> ctypes.c_void_p:
    """Where a tensor's numbers lie; null for None."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def dense(x: Tensor) -> Tensor:
    """`x` as the kernels read it: dense, channels last."""
    return x.contiguous(memory_format=torch.channels_last)


def dense_like(x: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """Room for as many images as in `x`, of other channels and size."""
    return torch.empty(x.shape[0], channels, *size, memory_format=torch.channels_last)


def threads() -> ctypes.c_int64:
    return ctypes.c_int64(torch.get_num_threads())


def _built(compiler: str) -> Path:
    """The shared library for these sources, compiler and processor; compiled if it is not there."""
    version = subprocess.run(
        [compiler, "--version"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    texts = [path.read_text() for path in sorted([*FOLDER.glob("*.h"), *FOLDER.glob("*.cpp")])]
    identity = (texts, version, _FLAGS, platform.machine(), _processor())
    name = hashlib.sha256(repr(identity).encode()).hexdigest()[:20]
    path = cache_dir() / "kernels" / f"kernels-{name}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        # processes that start together would each compile them
        with path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _compile(compiler, path)
    return path


def _compile(compiler: str, path: Path) -> None:
    """The sources at the same time, since one after the other they take twice as long."""

    def run(*arguments: str) -> None:
        subprocess.run(
            [compiler, *_FLAGS, *arguments],
            capture_output=True,
            check=True,
            timeout=_COMPILE_TIMEOUT_S,
        )

    with tempfile.TemporaryDirectory() as folder, replacing(path) as temporary:
        objects = {str(s): f"{folder}/{s.stem}.o" for s in sorted(FOLDER.glob("*.cpp"))}
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(lambda pair: run("-c", pair[0], "-o", pair[1]), objects.items()))
        run("-shared", *objects.values(), "-o", str(temporary))


def _processor() -> str:
    """What ``-march=native`` depends on: the processor's own name of its instruction sets."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")
