"""What scores architectures, by the names the command line takes. Add one: write it, list it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nasdeploy.errors import UsageError
from nasdeploy.search.data import SearchData
from nasdeploy.search.evaluators.one_shot import OneShotEvaluator, OneShotSettings
from nasdeploy.search.evaluators.predictor import PredictorEvaluator, PredictorEvaluatorSettings
from nasdeploy.search.evaluators.published import PublishedSettings, published
from nasdeploy.search.evaluators.training import ShortTraining, ShortTrainingSettings
from nasdeploy.search.space import Deployment, SearchSpace
from nasdeploy.search.strategy import Evaluator, Trial
from nasdeploy.search.task import Task


@dataclass(frozen=True)
class Material:
    """What an evaluator may be made of; `make_strategy` says what each is."""

    space: SearchSpace
    task: Task
    train_deployment: Deployment
    data: SearchData
    seed: int
    supernet_weights: Mapping[str, Tensor] | None = None
    history: Sequence[Trial] = ()


@dataclass(frozen=True, slots=True)
class EvaluatorEntry:
    """The class of an evaluator's settings, and what makes it."""

    settings: type[Any]
    make: Callable[[Material, Any], Evaluator]


def _one_shot(material: Material, settings: OneShotSettings) -> Evaluator:
    return OneShotEvaluator(
        material.space,
        task=material.task,
        train_deployment=material.train_deployment,
        data=material.data,
        seed=material.seed,
        settings=settings,
        supernet_weights=material.supernet_weights,
    )


def _short_training(material: Material, settings: ShortTrainingSettings) -> Evaluator:
    _without_supernet(material, "training")
    return ShortTraining(
        material.space,
        task=material.task,
        deployment=material.train_deployment,
        data=material.data,
        settings=settings,
    )


def _predicted(material: Material, settings: PredictorEvaluatorSettings) -> Evaluator:
    _without_supernet(material, "predictor")
    if not material.history:
        raise UsageError("The evaluator predictor is fitted on an earlier run: --history RUN.")
    return PredictorEvaluator(
        material.space, material.history, metric=material.task.metric, settings=settings
    )


def _published(material: Material, settings: PublishedSettings) -> Evaluator:
    _without_supernet(material, "published")
    return published(material.space, settings)


def _without_supernet(material: Material, name: str) -> None:
    if material.supernet_weights is not None:
        raise UsageError(f"The evaluator {name} shares no weights: leave out --supernet.")


EVALUATORS: dict[str, EvaluatorEntry] = {
    "predictor": EvaluatorEntry(PredictorEvaluatorSettings, _predicted),
    "published": EvaluatorEntry(PublishedSettings, _published),
    "supernet": EvaluatorEntry(OneShotSettings, _one_shot),
    "training": EvaluatorEntry(ShortTrainingSettings, _short_training),
}
