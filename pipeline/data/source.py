"""What every reader of data hands over, before it is split and normalised."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nasdeploy.errors import BadInput
from nasdeploy.pipeline.data.images import Images, InMemory


@dataclass(frozen=True, slots=True)
class Source:
    """Images as they were found.

    Attributes:
        classes: Label names; label i is ``classes[i]``.
        validation, test: None where the source has no such split.
        sha256: Of the content (pixels, labels and names; for files on the disk their names, sizes
            and times of modification).
        flip: Whether a mirrored image still shows its class.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    validation: Images | None
    test: Images | None
    sha256: str
    flip: bool


def in_memory(
    name: str,
    classes: Sequence[str],
    splits: dict[str, tuple[Tensor, Tensor]],
    *,
    flip: bool,
) -> Source:
    """A source of tensors: split name to ((n, c, h, w) uint8, (n,) int64)."""
    digest = hashlib.sha256("\n".join(classes).encode())
    held: dict[str, InMemory] = {}
    for split, (pixels, labels) in splits.items():
        pixels, labels = pixels.contiguous(), labels.to(torch.int64)
        digest.update(f"{split} {tuple(pixels.shape)}".encode())
        digest.update(pixels.numpy().tobytes())
        digest.update(labels.numpy().tobytes())
        held[split] = InMemory(pixels, labels, _shape_of(pixels))
    return Source(
        name,
        tuple(classes),
        held["train"],
        held.get("validation"),
        held.get("test"),
        digest.hexdigest(),
        flip,
    )


def _shape_of(pixels: Tensor) -> tuple[int, int, int]:
    channels, height, width = pixels.shape[1:]
    return channels, height, width


def require_every_class(where: str, classes: Sequence[str], labels: Tensor) -> None:
    """`BadInput` if a class has no image to train on, or there are fewer than two classes."""
    if len(classes) < 2:
        raise BadInput(f"{where} has {len(classes)} class(es): a classifier needs at least two.")
    counts = torch.bincount(labels, minlength=len(classes)).tolist()
    empty = [name for name, count in zip(classes, counts, strict=True) if count == 0]
    if empty:
        raise BadInput(
            f"{where} has no training image of class {empty[0]!r}"
            f"{f' and {len(empty) - 1} more' if len(empty) > 1 else ''}: "
            "add images of it, or take the class out."
        )
