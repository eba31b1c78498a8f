"""What a network learns: its head, its loss, and the metrics that say how well.

A task knows nothing of spaces or strategies, so detection or segmentation is another class here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from nasdeploy.errors import UsageError
from nasdeploy.search.ops import Classifier


class Task(Protocol):
    """What is learned."""

    @property
    def name(self) -> str: ...

    @property
    def metric(self) -> str:
        """The metric that counts; higher is better."""
        ...

    def head(self, features: tuple[int, int, int], classes: int) -> nn.Module:
        """What turns features (channels, height, width) into outputs."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A scalar, the mean over the batch."""
        ...

    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, float]:
        """Means over the batch, 0 to 1, the one that counts among them."""
        ...

    def decode(self, outputs: Tensor, labels: Sequence[str]) -> list[Any]:
        """Outputs of a batch as a person reads them, one entry an image."""
        ...


@dataclass(frozen=True, slots=True)
class Classification:
    """One class an image; what counts is ``accuracy``, the share of images whose top class is it.

    Args:
        label_smoothing: Share of each target spread over all classes (Szegedy et al., CVPR 2016,
            arXiv:1512.00567, section 7).
    """

    label_smoothing: float = 0.0
    name: str = "classification"
    metric: str = "accuracy"

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(
                f"label_smoothing is {self.label_smoothing}: it must be at least 0 and below 1."
            )

    def head(self, features: tuple[int, int, int], classes: int) -> nn.Module:
        return Classifier(features[0], classes)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def metrics(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """``accuracy`` (top-1) and ``top5``; with 5 classes or fewer the latter is always 1."""
        best = outputs.topk(min(5, outputs.shape[1]), dim=1).indices
        right = best == targets[:, None]
        return {
            "accuracy": float(right[:, 0].float().mean()),
            "top5": float(right.any(dim=1).float().mean()),
        }

    def decode(self, outputs: Tensor, labels: Sequence[str]) -> list[Any]:
        """(label, probability) of the top class of each image."""
        top = outputs.softmax(dim=1).max(dim=1)
        return [
            (labels[index], probability)
            for index, probability in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], task: Task
) -> dict[str, float]:
    """Every metric of `task`, and ``loss``, averaged over all images of `batches`.

    The model is run in eval mode where its parameters are, and left in the mode it had.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    totals: dict[str, float] = {}
    images = 0
    for x, y in batches:
        outputs = model(x.to(device, memory_format=torch.channels_last))
        targets = y.to(device)
        batch = {"loss": float(task.loss(outputs, targets)), **task.metrics(outputs, targets)}
        for name, value in batch.items():
            totals[name] = totals.get(name, 0.0) + value * len(x)
        images += len(x)
    model.train(was_training)
    if not images:
        raise UsageError("There is no image to evaluate on: the validation split is empty.")
    return {name: total / images for name, total in totals.items()}
