"""Data in one NumPy archive.

The keys: ``x_train`` and ``y_train``; optionally ``x_val`` and ``y_val``, ``x_test`` and
``y_test``, and ``labels``, the names of the classes. Images are uint8, (n, h, w) or (n, h, w, c)
with 1 or 3 channels; labels are integers from 0 on.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nasdeploy.errors import BadInput
from nasdeploy.pipeline.data.source import Source, in_memory, require_every_class

_SPLITS = {"train": "train", "validation": "val", "test": "test"}
_KEYS = frozenset({"labels", *(f"{axis}_{name}" for axis in "xy" for name in _SPLITS.values())})


def load_npz(path: Path, *, name: str | None = None, flip: bool = False) -> Source:
    """Read and check an archive; `BadInput` names the file, the key and what is wrong with it.

    Args:
        name: What the data are called; the path if None.
        flip: Whether mirrored images keep their class: an archive does not say.
    """
    arrays = _arrays(path)
    for key in ("x_train", "y_train"):
        if key not in arrays:
            raise BadInput(
                f"{path} has no {key!r}; it has {', '.join(sorted(arrays)) or 'nothing'}."
            )
    if unknown := sorted(set(arrays) - _KEYS):
        raise BadInput(
            f"{path} has the key {unknown[0]!r}, which means nothing here: "
            f"the keys are {', '.join(sorted(_KEYS))}."
        )
    classes = _classes(path, arrays)
    splits: dict[str, tuple[Tensor, Tensor]] = {}
    for split, key in _SPLITS.items():
        if f"x_{key}" not in arrays and f"y_{key}" not in arrays:
            continue
        images = _images(path, f"x_{key}", arrays.get(f"x_{key}"))
        labels = _labels(path, f"y_{key}", arrays.get(f"y_{key}"), len(images), len(classes))
        if splits and images.shape[1:] != splits["train"][0].shape[1:]:
            raise BadInput(
                f"{path}: x_{key} holds images of {tuple(images.shape[1:])}, and x_train of "
                f"{tuple(splits['train'][0].shape[1:])} (channels, height, width)."
            )
        splits[split] = (images, labels)
    require_every_class(str(path), classes, splits["train"][1])
    return in_memory(name or str(path), classes, splits, flip=flip)


def _arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    if not path.is_file():
        raise BadInput(f"{path} is not there.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise BadInput(f"{path} holds one array: write an archive with np.savez.")
            return {key: archive[key] for key in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadInput(f"{path} is not a readable .npz archive ({error}).") from error


def _images(path: Path, key: str, array: npt.NDArray[Any] | None) -> Tensor:
    if array is None:
        raise BadInput(f"{path} has {key.replace('x_', 'y_')!r} without {key!r}.")
    if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
        raise BadInput(f"{path}: {key} holds NaN; images are uint8, 0 to 255.")
    if array.dtype != np.uint8:
        raise BadInput(
            f"{path}: {key} is {array.dtype}; images are uint8, 0 to 255. Values from 0 to 1 "
            f"become that by ({key} * 255).round().astype('uint8')."
        )
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape:
        raise BadInput(
            f"{path}: {key} has the shape {array.shape}; images are (n, height, width) or "
            "(n, height, width, 1 or 3)."
        )
    return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))


def _labels(
    path: Path, key: str, array: npt.NDArray[Any] | None, images: int, classes: int
) -> Tensor:
    if array is None:
        raise BadInput(f"{path} has {key.replace('y_', 'x_')!r} without {key!r}.")
    if not np.issubdtype(array.dtype, np.integer) or array.ndim != 1:
        raise BadInput(
            f"{path}: {key} is {array.dtype} of shape {array.shape}; labels are integers, (n,)."
        )
    if len(array) != images:
        raise BadInput(f"{path}: {images} images and {len(array)} labels in {key}.")
    outside = np.flatnonzero((array < 0) | (array >= classes))
    if len(outside):
        raise BadInput(
            f"{path}: {key}[{outside[0]}] is {array[outside[0]]}; "
            f"with {classes} classes labels are 0 to {classes - 1}."
        )
    return torch.from_numpy(array.astype(np.int64))


def _classes(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> list[str]:
    """The names given, or the numbers up to the largest training label."""
    if "labels" in arrays:
        names = arrays["labels"]
        if names.ndim != 1 or names.dtype.kind not in "US":
            raise BadInput(
                f"{path}: labels is {names.dtype}; it holds the classes' names, as text."
            )
        texts = [str(name) for name in names.astype(str)]
        if len(set(texts)) != len(texts):
            raise BadInput(f"{path}: labels names a class twice.")
        return texts
    y_train = arrays["y_train"]
    if not np.issubdtype(y_train.dtype, np.integer) or not y_train.size:
        raise BadInput(
            f"{path}: y_train is {y_train.dtype} of shape {y_train.shape}; "
            "labels are integers, (n,)."
        )
    return [str(label) for label in range(max(0, int(y_train.max())) + 1)]
