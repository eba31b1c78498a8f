"""A folder of images: one subfolder for each class, train/val/test above them or not."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from nasdeploy.errors import BadInput, UsageError
from nasdeploy.pipeline.data.images import Images, InMemory, OnDisk, Shape, decode, fit, to_tensor
from nasdeploy.pipeline.data.source import Source, require_every_class

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
IN_MEMORY_BYTES = 512 * 2**20
_SPLIT_FOLDERS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test",),
}
_LOOKED_AT = 20_000
_EXIF_ORIENTATION, _SIDEWAYS = 0x0112, frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class _Found:
    paths: tuple[Path, ...]
    labels: torch.Tensor


def load_folder(
    root: Path,
    *,
    input_shape: Shape | None = None,
    split_folders: Mapping[str, Sequence[str]] = _SPLIT_FOLDERS,
    class_names: Mapping[str, str] | None = None,
    in_memory_bytes: int = IN_MEMORY_BYTES,
) -> Source:
    """Find the images, agree on one shape, and hold them in memory where they fit.

    Args:
        input_shape: What they are brought to; if None, they must be of one size, and are grey if
            all are.
        split_folders: For each split the names its folder may have.
        class_names: From folder names to label names, where they differ.
        in_memory_bytes: Above this, images are decoded batch by batch.
    Raises: `BadInput` naming the folder or file that cannot be used, `UsageError` where sizes are
        mixed and none was given.
    """
    if not root.is_dir():
        raise BadInput(f"{root} is not a folder.")
    folders = _splits(root, split_folders)
    names = _class_folders(folders["train"])
    found = {split: _find(folder, names) for split, folder in folders.items()}
    require_every_class(str(folders["train"]), names, found["train"].labels)
    if input_shape is None:
        every = [path for split in found.values() for path in split.paths]
        input_shape = _common_shape(root, every)
    total = sum(len(split.paths) for split in found.values())
    small = total * input_shape[0] * input_shape[1] * input_shape[2] <= in_memory_bytes
    images: dict[str, Images] = {
        split: _read(at, input_shape) if small else OnDisk(at.paths, at.labels, input_shape)
        for split, at in found.items()
    }
    return Source(
        f"folder:{root}",
        tuple((class_names or {}).get(name, name) for name in names),
        images["train"],
        images.get("validation"),
        images.get("test"),
        _sha256(root, found),
        flip=True,
    )


def _splits(root: Path, split_folders: Mapping[str, Sequence[str]]) -> dict[str, Path]:
    """The folder of each split there is; without a train folder, `root` holds the classes."""
    there = {
        split: next((root / name for name in names if (root / name).is_dir()), None)
        for split, names in split_folders.items()
    }
    if there["train"] is None:
        return {"train": root}
    return {split: folder for split, folder in there.items() if folder is not None}


def _class_folders(folder: Path) -> list[str]:
    names = sorted(
        entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."
    )
    if not names:
        raise BadInput(
            f"{folder} has no subfolders: put the images of each class into a folder of its name."
        )
    return names


def _find(folder: Path, names: Sequence[str]) -> _Found:
    """Every image below the classes' folders, sorted by name."""
    if strange := sorted({*_class_folders(folder)} - {*names}):
        raise BadInput(f"{folder / strange[0]} is a class that has no training images.")
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        below = sorted(p for p in (folder / name).rglob("*") if p.suffix.lower() in SUFFIXES)
        paths += below
        labels += [label] * len(below)
    if not paths:
        raise BadInput(f"{folder} holds no images ({', '.join(sorted(SUFFIXES))}).")
    return _Found(tuple(paths), torch.tensor(labels, dtype=torch.int64))


def _common_shape(root: Path, paths: Sequence[Path]) -> Shape:
    """The one shape that all have, from their headers."""
    if len(paths) > _LOOKED_AT:
        raise UsageError(
            f"{root} holds {len(paths)} images: give the shape to bring them to "
            "(--input-shape 3x224x224)."
        )
    sizes: Counter[tuple[int, int]] = Counter()
    grey = True
    for path in paths:
        try:
            with Image.open(path) as image:
                sideways = image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS
                sizes[(image.width, image.height) if sideways else (image.height, image.width)] += 1
                grey = grey and image.mode in ("1", "L")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise BadInput(
                f"{path} cannot be read as an image ({error}): replace or remove it."
            ) from error
    if len(sizes) > 1:
        smallest, largest = min(sizes), max(sizes)
        raise UsageError(
            f"{root} holds images of {len(sizes)} sizes, from {smallest[1]}x{smallest[0]} to "
            f"{largest[1]}x{largest[0]} (width x height): give the shape to bring them to "
            f"(--input-shape {1 if grey else 3}x96x96)."
        )
    height, width = next(iter(sizes))
    return (1 if grey else 3, height, width)


def _read(found: _Found, shape: Shape) -> InMemory:
    pixels = torch.empty((len(found.paths), *shape), dtype=torch.uint8)
    for row, path in zip(pixels, found.paths, strict=True):
        row.copy_(fit(to_tensor(decode(path, shape[0]))[None], shape)[0])
    return InMemory(pixels, found.labels, shape)


def _sha256(root: Path, found: Mapping[str, _Found]) -> str:
    """Of names, sizes and times of modification: reading every file would take too long."""
    digest = hashlib.sha256()
    for split, images in found.items():
        for path in images.paths:
            status = path.stat()
            line = f"{split}\0{path.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(line.encode())
    return digest.hexdigest()
