"""What the exporters share: a copy to convert, silence meanwhile, errors that name the operator."""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.metadata
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nasdeploy.durable import sha256_file
from nasdeploy.errors import ExportError, NasdeployError, OutOfResources, UsageError
from nasdeploy.export.artifact import Artifact, Calibration, Precision, Target, TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

# How the converters name what they can't convert: aten.roll.default, aten::fft_rfft, torch.ops.x.y
_OPERATOR = re.compile(
    r"\b(?:torch\.ops\.)?((?:aten|prims|higher_order|torchvision)(?:\.|::)[a-z_][\w.]*\w)"
)


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@functools.cache
def version_of(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        raise ExportError(
            f"The package {package} is not installed, and the export needs it. "
            f"Install it: pip install {package}"
        ) from None


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    return {package: version_of(package) for package in packages}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing that happens inside reaches the terminal.

    Converters print, log and warn from Python and from C++, so the file descriptors are turned
    away and not only Python's streams. This holds for the whole process: a progress line that
    another thread prints meanwhile is lost.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    logging_was = logging.root.manager.disable
    with contextlib.ExitStack() as stack:
        sink = stack.enter_context(Path(os.devnull).open("w"))
        for number in (1, 2):
            try:
                kept = os.dup(number)
            except OSError:  # closed by whoever started this process: nothing to keep quiet
                continue
            stack.callback(os.close, kept)
            stack.callback(os.dup2, kept, number)
            os.dup2(sink.fileno(), number)
        stack.enter_context(contextlib.redirect_stdout(sink))
        stack.enter_context(contextlib.redirect_stderr(sink))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        stack.callback(logging.disable, logging_was)
        yield


@contextlib.contextmanager
def _shared_history() -> Iterator[None]:
    """Let the nodes of a graph share the records of what they were made from.

    Each pass of a converter copies these chains for every node, and they grow with each pass, which
    costs a large network as much as some of the passes. Nobody changes them.
    """
    from torch.fx.traceback import NodeSource

    NodeSource.__deepcopy__ = lambda self, _: self  # type: ignore[attr-defined]
    try:
        yield
    finally:
        del NodeSource.__deepcopy__  # type: ignore[attr-defined]


@contextlib.contextmanager
def converting(runtime: str) -> Iterator[None]:
    """`quiet`, and whatever a converter raises becomes an `ExportError` that names the operator."""
    try:
        with quiet(), _shared_history():
            yield
    except (NasdeployError, OSError):
        raise
    except MemoryError as error:
        raise OutOfResources(
            f"The memory ran out while converting for {runtime}. Close other programs or export "
            "with fewer workers, and run the same command again."
        ) from error
    except ModuleNotFoundError as error:
        raise ExportError(
            f"{runtime} files cannot be written: the package {error.name} is not installed. "
            "See what is missing: nasdeploy doctor"
        ) from error
    except Exception as error:
        raise ExportError(_explanation(runtime, error)) from error


def _explanation(runtime: str, error: Exception) -> str:
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    texts = [_COLOUR.sub("", str(link)) for link in chain]
    found = next((match[1] for text in texts if (match := _OPERATOR.search(text))), None)
    # The converters wrap what happened in general advice; the first cause says what happened.
    lines = [line.strip() for line in texts[-1].splitlines() if line.strip()]
    reason = f"{type(chain[-1]).__name__}: {lines[0][:300] if lines else 'no message'}"
    what = f"the operator {found}" if found else "the model"
    return (
        f"{runtime} cannot express {what} ({reason}). Replace it in the model by operators that "
        "the format has, or export for another runtime (--runtime)."
    )


def prepared(model: nn.Module, example_input: tuple[Tensor, ...]) -> nn.Module:
    """A copy on the CPU, float32, in the memory layout that converters expect.

    Training in channels_last leaves strides in the weights that become transposes in a file.

    Raises: `UsageError` for a model in training mode.
    """
    import torch

    if model.training:
        raise UsageError(
            "A model in training mode cannot be exported: batch norm and dropout would be "
            "exported as they train. Call model.eval() first."
        )
    if any(tensor.shape[0] != 1 for tensor in example_input):
        raise UsageError(
            "An example input has the batch size 1, since one image at a time is what a device "
            f"runs; these are {[tuple(tensor.shape) for tensor in example_input]}."
        )
    copied = copy.deepcopy(model).to("cpu", torch.float32).requires_grad_(False)
    return copied.to(memory_format=torch.contiguous_format)


def output_ranks(model: nn.Module, example_input: tuple[Tensor, ...]) -> tuple[int, ...]:
    """How many dimensions each output has.

    Raises: `ExportError` if an output is not a tensor.
    """
    import torch

    with torch.no_grad():
        outputs = model(*example_input)
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    for output in outputs:
        if not isinstance(output, torch.Tensor):
            raise ExportError(
                f"The model returns a {type(output).__name__}, and a file can only return "
                "tensors: return a tensor or a tuple of tensors."
            )
    return tuple(output.ndim for output in outputs)


def layout_of(rank: int, image: str) -> str:
    """`image` (``"NCHW"`` or ``"NHWC"``) for four dimensions; ``"NC"`` for features."""
    return image if rank == 4 else "NC"


def describe(
    path: Path,
    written: Path,
    *,
    runtime: str,
    precision: Precision,
    target: Target,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    scheme: str,
    calibration: Calibration | None,
    delegated_share: float | None,
    packages: Sequence[str],
) -> Artifact:
    """The artifact of the file at `written`, which will be renamed to `path`."""
    int8 = precision == "int8"
    return Artifact(
        path=path,
        runtime=runtime,
        precision=precision,
        target=target,
        size_bytes=written.stat().st_size,
        sha256=sha256_file(written),
        inputs=inputs,
        outputs=outputs,
        scheme=scheme if int8 else "none",
        calibration={"count": calibration.count, "sha256": calibration.sha256}
        if calibration is not None and int8
        else None,
        delegated_share=delegated_share,
        versions=versions_of(packages),
    )


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for a converter that insists on files; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="nasdeploy-export-") as name:
        yield Path(name)
