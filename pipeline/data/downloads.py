"""Public data sets: what is on this machine already is used, else torchvision downloads it."""

from __future__ import annotations

import contextlib
import gzip
import socket
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nasdeploy.errors import BadInput, OutOfResources, UsageError
from nasdeploy.pipeline.data.folder import load_folder
from nasdeploy.pipeline.data.images import Shape
from nasdeploy.pipeline.data.source import Source, in_memory

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = (
    "t-shirt/top", "trouser", "pullover", "dress", "coat",
    "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
_IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
_TIMEOUT_S = 30.0


def read_idx(path: Path) -> npt.NDArray[np.uint8]:
    """An array in MNIST's idx format, unpacked or gzipped; `BadInput` if it is not one."""
    try:
        content = path.read_bytes()
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        zero, kind, dimensions = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{dimensions}I", content, 4)
        if zero or kind != 0x08:
            raise ValueError("it does not begin like an array of unsigned bytes")
        pixels = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * dimensions)
        return pixels.reshape(shape).copy()
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise BadInput(f"{path} is not an idx file ({error}): fetch it again.") from error


def load_fashion_mnist(root: Path) -> Source:
    """Fashion-MNIST (Xiao et al., arXiv:1708.07747): 60,000 and 10,000 images, 28x28, grey.

    Looked for in `root`, in torchvision's folders below it, and where Debian puts it.
    """
    places = (root, root / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST)
    place = next((place for place in places if _idx(place, "train", 0).exists()), None)
    if place is None:
        _download(
            "FashionMNIST",
            root,
            "fashion-mnist",
            "install Debian's package dataset-fashion-mnist, or put its four "
            f"*-ubyte.gz files into {root}; or use the subset that ships: fashion-mnist-mini",
        )
        place = root / "FashionMNIST" / "raw"
    splits: dict[str, tuple[Tensor, Tensor]] = {}
    for split in _IDX_FILES:
        images = read_idx(_idx(place, split, 0))
        labels = read_idx(_idx(place, split, 1))
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise BadInput(
                f"{place}: images {images.shape}, labels {labels.shape}: fetch it again."
            )
        splits[split] = (torch.from_numpy(images)[:, None], torch.from_numpy(labels))
    return in_memory("fashion-mnist", FASHION_CLASSES, splits, flip=True)


def _idx(place: Path, split: str, which: int) -> Path:
    plain = place / _IDX_FILES[split][which]
    return plain if plain.exists() else plain.with_name(f"{plain.name}.gz")


def load_cifar(name: str, root: Path) -> Source:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009): 50,000 and 10,000 images, 32x32, colour."""
    kind, folder = {
        "cifar10": ("CIFAR10", "cifar-10-batches-py"),
        "cifar100": ("CIFAR100", "cifar-100-python"),
    }[name]
    if not (root / folder).is_dir():
        _download(kind, root, name, f"put the unpacked folder {folder} into {root}")
    from torchvision import datasets

    splits: dict[str, tuple[Tensor, Tensor]] = {}
    classes: list[str] = []
    for split in ("train", "test"):
        try:
            held = getattr(datasets, kind)(root, train=split == "train")
        except RuntimeError as error:  # it compares each file's checksum with the published one
            raise BadInput(f"{root / folder} is damaged ({error}): remove it.") from error
        pixels = torch.from_numpy(held.data).permute(0, 3, 1, 2)
        splits[split] = (pixels, torch.tensor(held.targets))
        classes = list(held.classes)
    return in_memory(name, classes, splits, flip=True)


def load_imagenet(root: Path, input_shape: Shape | None) -> Source:
    """ImageNet-1k (ILSVRC 2012) from a folder of yours; nobody may hand it on.

    `root` holds train/ and val/ with a folder for each class, or the original archives, which
    torchvision unpacks. The labelled "val" images are the test split, as everywhere.
    """
    names: dict[str, str] = {}
    archives = sorted(root.glob("ILSVRC2012_*.tar*"))
    if archives or (root / "meta.bin").exists():
        names = _unpacked_imagenet(root)
    if not (root / "train").is_dir() or not (root / "val").is_dir():
        raise UsageError(
            f"{root} has no ImageNet: it cannot be downloaded without an account. Get it from "
            "image-net.org, and give the folder that holds train/ and val/ (a folder for each "
            "class), or the three ILSVRC2012_*.tar* archives."
        )
    folders = {"train": ("train",), "validation": (), "test": ("val",)}
    source = load_folder(
        root,
        input_shape=input_shape or (3, 224, 224),
        split_folders=folders,
        class_names=names,
    )
    return Source(
        "imagenet", source.classes, source.train, None, source.test, source.sha256, flip=True
    )


def _unpacked_imagenet(root: Path) -> dict[str, str]:
    """Label names by folder name."""
    from torchvision.datasets import ImageNet

    try:
        for split in ("train", "val"):
            held = ImageNet(root, split=split)
    except RuntimeError as error:
        raise BadInput(f"{root}: the ImageNet archives are not usable ({error}).") from error
    return {
        folder: " or ".join(words) for folder, words in zip(held.wnids, held.classes, strict=True)
    }


def _download(kind: str, root: Path, name: str, instead: str) -> None:
    """Let torchvision fetch and check a data set.

    Raises: `UsageError` that says what to do instead where there is no way to the internet.
    """
    from torchvision import datasets

    fetch: Callable[..., Any] = getattr(datasets, kind)
    try:
        with _socket_timeout(_TIMEOUT_S):
            fetch(root, train=True, download=True)
    except (OSError, RuntimeError) as error:
        if getattr(error, "errno", None) == 28:
            raise OutOfResources(f"The disk is full: {root} has no room for {name}.") from error
        raise UsageError(
            f"{name} is not in {root} and could not be downloaded ({error}): {instead}."
        ) from error


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision gives its downloads no time limit: a dead connection would hang for good."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
