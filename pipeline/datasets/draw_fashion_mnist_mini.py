"""Draw fashion_mnist_mini.npz from the full Fashion-MNIST: `python draw_fashion_mnist_mini.py`.

Needs Debian's package dataset-fashion-mnist, or a folder with the four original .gz files as the
first argument. The same input gives the same file, byte for byte under the same numpy and zlib.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nasdeploy import durable
from nasdeploy.pipeline.data.downloads import DEBIAN_FASHION_MNIST, FASHION_CLASSES, read_idx

SEED = 20170825
PER_CLASS = {"train": 1000, "test": 200}


def draw(folder: Path) -> dict[str, npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(SEED)
    arrays: dict[str, npt.NDArray[np.uint8]] = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        images = read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
        labels = read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
        drawn = [
            rng.choice(np.flatnonzero(labels == label), PER_CLASS[split], replace=False)
            for label in range(len(FASHION_CLASSES))
        ]
        order = rng.permutation(np.concatenate(drawn))
        arrays[f"x_{split}"], arrays[f"y_{split}"] = images[order], labels[order]
    return arrays


if __name__ == "__main__":
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else DEBIAN_FASHION_MNIST
    content = {**draw(source), "labels": np.array(FASHION_CLASSES)}
    target = Path(__file__).parent / "fashion_mnist_mini.npz"
    with durable.replacing(target) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **content)  # type: ignore[arg-type]
    print(f"{target}: {target.stat().st_size} bytes, sha256 {durable.sha256_file(target)}")
