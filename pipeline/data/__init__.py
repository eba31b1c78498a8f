"""Data sets by name, from a folder or from an archive; docs/data.md has the formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nasdeploy.durable import cache_dir
from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.pipeline.data.dataset import DataSet, Feed, Normalisation, prepared
from nasdeploy.pipeline.data.downloads import load_cifar, load_fashion_mnist, load_imagenet
from nasdeploy.pipeline.data.folder import load_folder
from nasdeploy.pipeline.data.images import Shape
from nasdeploy.pipeline.data.npz import load_npz
from nasdeploy.pipeline.data.source import Source

__all__ = ["NAMED", "DataSet", "Feed", "Normalisation", "default_root", "load_data"]

SHIPPED = Path(__file__).parent.parent / "datasets" / "fashion_mnist_mini.npz"

NAMED: dict[str, Callable[[Path, Shape | None], Source]] = {
    "fashion-mnist-mini": lambda root, shape: load_npz(
        SHIPPED, name="fashion-mnist-mini", flip=True
    ),
    "fashion-mnist": lambda root, shape: load_fashion_mnist(root),
    "cifar10": lambda root, shape: load_cifar("cifar10", root),
    "cifar100": lambda root, shape: load_cifar("cifar100", root),
    "imagenet": load_imagenet,
}


def default_root() -> Path:
    """Where downloaded data sets lie."""
    return cache_dir() / "data"


def load_data(
    spec: str,
    *,
    root: Path | None = None,
    validation_share: float = 0.1,
    seed: int = 0,
    input_shape: Shape | None = None,
    flip: bool | None = None,
    images: int | None = None,
) -> DataSet:
    """Images with labels, split and normalised, ready to train on.

    Args:
        spec: A name in `NAMED`, ``"folder:PATH"``, or the path of an .npz archive.
        root: Where a named data set lies or is downloaded to; `default_root` if None.
        validation_share: Of each class's training images, where there is no validation split.
        seed: Draws that split.
        input_shape: (channels, height, width) to bring the images to.
        flip: Whether mirrored images keep their class. If None, as the source says: yes, except
            for an archive, which may hold digits or letters.
        images: At most so many of each split, about evenly of each class; all of them if None.
    Raises: `UnknownName` with the nearest name; `BadInput` naming the file and what is wrong.
    """
    if spec.startswith("folder:"):
        source = load_folder(
            Path(spec.removeprefix("folder:")).expanduser(), input_shape=input_shape
        )
    elif spec.endswith(".npz"):
        source = load_npz(Path(spec).expanduser())
    elif spec in NAMED:
        source = NAMED[spec](root or default_root(), input_shape)
    elif Path(spec).is_dir():
        raise UsageError(f"{spec!r} is a folder: write it as folder:{spec}.")
    else:
        raise UnknownName("data set", spec, [*NAMED, "folder:PATH", "PATH.npz"])
    data = prepared(source, validation_share=validation_share, seed=seed, flip=flip)
    data = data if images is None else data.limited(images)
    return data.converted(input_shape) if input_shape else data
