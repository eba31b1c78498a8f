"""The accuracies of NAS-Bench-201 as what scores: a search in seconds, on real results."""

from __future__ import annotations

from dataclasses import dataclass

from nasdeploy.errors import UsageError
from nasdeploy.search.evaluators.tabular import TabularEvaluator, load_nasbench201
from nasdeploy.search.space import SearchSpace


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedSettings:
    """
    Attributes:
        dataset: ``"cifar10"`` or ``"cifar100"``; what is looked up is validation accuracy.
        published_epochs: How long the published networks were trained, 12 or 200.
    """

    dataset: str = "cifar10"
    published_epochs: int = 200


def published(space: SearchSpace, settings: PublishedSettings) -> TabularEvaluator:
    """The evaluator of the space that was published; `UsageError` for another."""
    if space.name != "nasbench201":
        raise UsageError(
            f"There are no published accuracies of {space.name}: the evaluator published is for "
            "--space nasbench201."
        )
    return TabularEvaluator(
        load_nasbench201(),
        dataset=settings.dataset,
        split="valid",
        epochs=settings.published_epochs,
    )
