"""What a strategy needs of the data: batches whose order it can have again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Protocol

from torch import Tensor

Split = Literal["weights", "arch", "valid"]


class SearchData(Protocol):
    """Images and targets for a search.

    The training images are halved: ``"weights"`` trains the weights, ``"arch"`` chooses between
    architectures. ``"valid"`` scores them, and is neither of the two nor the test set.
    """

    def batches(self, split: Split, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over a split: (N, C, H, W) float32 images and their targets.

        Order and augmentation depend on nothing but (seed, split, epoch), so that a search that
        is stopped and resumed sees what it would have seen.
        """
        ...
