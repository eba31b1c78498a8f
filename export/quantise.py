"""Calibration: the inputs on which the ranges of activations are read off.

Post-training quantisation in all three formats here takes the smallest and the largest value that
each activation had on the calibration images (min-max). It is cheap, deterministic, and was as good
as ExecuTorch's default histogram on mobilenet_v2, at a tenth of the time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from nasdeploy.errors import BadInput, UsageError
from nasdeploy.export.artifact import Calibration, Precision

if TYPE_CHECKING:
    from torch import Tensor


def make_calibration(batches: Iterable[Tensor | tuple[Tensor, ...]]) -> Calibration:
    """A calibration set of what a data loader gives, labels left out.

    Args:
        batches: float32, (N, C, H, W) as the model takes them, normalised; a tuple where the model
            has several inputs.
    Raises: `BadInput` if there is no image or a value is not finite.
    """
    import torch

    digest = hashlib.sha256()
    kept: list[tuple[Tensor, ...]] = []
    count = 0
    for batch in batches:
        tensors = batch if isinstance(batch, tuple) else (batch,)
        tensors = tuple(
            t.detach().to("cpu", torch.float32, memory_format=torch.contiguous_format)
            for t in tensors
        )
        for tensor in tensors:
            if not bool(torch.isfinite(tensor).all()):
                raise BadInput(
                    f"Calibration batch {len(kept)} holds NaN or infinite values; check the "
                    "images and their normalisation."
                )
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.numpy().tobytes())
        kept.append(tensors)
        count += tensors[0].shape[0]
    if count == 0:
        raise BadInput("There are no calibration images; int8 needs a few dozen (16 to 256).")
    return Calibration(tuple(kept), count, digest.hexdigest())


def calibration_for_latency(
    input_shapes: Sequence[Sequence[int]], seed: int = 0, *, count: int = 2
) -> Calibration:
    """Random inputs for a network that is only timed: latency hardly depends on the ranges.

    Args:
        input_shapes: One per input, without the batch.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    return make_calibration(
        [tuple(torch.randn(count, *shape, generator=generator) for shape in input_shapes)]
    )


def rows_of(
    calibration: Calibration | None, example_input: tuple[Tensor, ...]
) -> Iterator[tuple[Tensor, ...]]:
    """The images one by one, each with the batch dimension, as the exported graph takes them.

    Raises: `UsageError` if there is no calibration, or if its shapes are not the model's.
    """
    if calibration is None:
        raise UsageError(
            "int8 needs calibration images (a few dozen of the training set, normalised as in "
            "training): pass calibration=make_calibration(batches)."
        )
    expected = [tuple(tensor.shape[1:]) for tensor in example_input]
    for batch in calibration.batches:
        shapes = [tuple(tensor.shape[1:]) for tensor in batch]
        if shapes != expected:
            raise UsageError(
                f"The calibration images have the shapes {shapes}, and the model takes {expected}."
            )
        for row in range(batch[0].shape[0]):
            yield tuple(tensor[row : row + 1] for tensor in batch)


def check_request(precision: Precision, quantised_io: bool) -> None:
    """`UsageError` unless the precision is known and suits `quantised_io`."""
    if precision not in ("fp32", "int8"):
        raise UsageError(f"Unknown precision {precision!r}. Known: fp32, int8.")
    if quantised_io and precision != "int8":
        raise UsageError("Quantised inputs and outputs go with int8, not with fp32.")
