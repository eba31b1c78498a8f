"""The strategies and evaluators by the names the command line takes.

Add one: write it, list it here. A strategy that only proposes is a class of sampler and works with
every evaluator; one that also scores, by gradients, makes itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from torch import Tensor

from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.search.data import SearchData
from nasdeploy.search.evaluators import EVALUATORS, Material
from nasdeploy.search.goal import Goal
from nasdeploy.search.objective import Bounds
from nasdeploy.search.proposing import Proposing
from nasdeploy.search.space import Deployment, SearchSpace
from nasdeploy.search.strategies.bayesian import Bayesian, BayesianSettings
from nasdeploy.search.strategies.darts import Darts, DartsSettings
from nasdeploy.search.strategies.evolution import EvolutionSettings, RegularizedEvolution
from nasdeploy.search.strategies.local_search import LocalSearch
from nasdeploy.search.strategies.nsga2 import Nsga2, Nsga2Settings
from nasdeploy.search.strategies.optuna_samplers import OPTUNA
from nasdeploy.search.strategies.pc_darts import PcDarts, PcDartsSettings
from nasdeploy.search.strategies.pnas import Progressive, ProgressiveSettings
from nasdeploy.search.strategies.predictor import Predictor, PredictorSettings
from nasdeploy.search.strategies.proposer import SamplerSettings
from nasdeploy.search.strategies.proxyless import Proxyless, ProxylessSettings
from nasdeploy.search.strategies.random_search import RandomSearch
from nasdeploy.search.strategy import Sampler, Strategy, Trial
from nasdeploy.search.task import Task


class WeightSharing(Strategy, Protocol):
    """A strategy that knows its length, and may have a supernet to hand to another search."""

    @property
    def total_steps(self) -> int:
        """From the first step to the last, if no budget ends it before: for the time that is left.

        A strategy that runs out of architectures ends earlier.
        """
        ...

    def supernet_weights(self) -> dict[str, Tensor] | None:
        """None where nothing shares weights."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """What a strategy is made of: a sampler, or what makes all of it; and its settings' class."""

    settings: type[Any]
    sampler: Callable[[SearchSpace, Bounds, Goal, Any, int], Sampler] | None = None
    make: Callable[..., WeightSharing] | None = None


STRATEGIES: dict[str, Entry] = {
    "bayesian": Entry(BayesianSettings, Bayesian),
    "darts": Entry(DartsSettings, make=Darts),
    "evolution": Entry(EvolutionSettings, RegularizedEvolution),
    "local": Entry(SamplerSettings, LocalSearch),
    "nsga2": Entry(Nsga2Settings, Nsga2),
    **{name: Entry(kind.settings, kind.make) for name, kind in OPTUNA.items()},
    "pc-darts": Entry(PcDartsSettings, make=PcDarts),
    "pnas": Entry(ProgressiveSettings, Progressive),
    "predictor": Entry(PredictorSettings, Predictor),
    "proxyless": Entry(ProxylessSettings, make=Proxyless),
    "random": Entry(SamplerSettings, RandomSearch),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Those of a strategy and, where it only proposes, those of its evaluator."""

    strategy: str
    own: Any
    evaluator: str | None
    evaluating: Any


def make_settings(
    name: str, changes: Mapping[str, Any] | None = None, *, evaluator: str = "supernet"
) -> Settings:
    """The settings of a strategy and its evaluator, where `changes` says nothing their defaults.

    Raises: `UnknownName` for a strategy, an evaluator or a setting that there is not, `UsageError`
        for a value of another type or outside what it may be.
    """
    if name not in STRATEGIES:
        raise UnknownName("strategy", name, STRATEGIES)
    if evaluator not in EVALUATORS:
        raise UnknownName("evaluator", evaluator, EVALUATORS)
    entry = STRATEGIES[name]
    if entry.sampler is None:
        if evaluator != "supernet":
            raise UsageError(f"{name} scores with its own supernet: it takes no --evaluator.")
        return Settings(
            name, entry.settings(**_checked(name, [entry.settings], changes)), None, None
        )
    kinds = [entry.settings, EVALUATORS[evaluator].settings]
    changed = _checked(f"{name} with {evaluator}", kinds, changes)
    own, evaluating = (
        kind(**{f.name: changed[f.name] for f in fields(kind) if f.name in changed})
        for kind in kinds
    )
    return Settings(name, own, evaluator, evaluating)


def _checked(
    of: str, kinds: list[type[Any]], changes: Mapping[str, Any] | None
) -> Mapping[str, Any]:
    defaults = {field.name: field.default for kind in kinds for field in fields(kind)}
    for setting, value in (changes or {}).items():
        if setting not in defaults:
            raise UnknownName(f"setting of {of}", setting, defaults)
        usual = defaults[setting]
        # a bool is an int, and means neither a count nor a rate
        wrong_kind = isinstance(value, bool) != isinstance(usual, bool)
        if wrong_kind or not isinstance(value, _accepted(usual)):
            raise UsageError(f"{setting} of {of} is {value!r}: its default is {usual!r}.")
    return changes or {}


def _accepted(usual: object) -> tuple[type, ...]:
    """The types that may stand in for a default; None is the default of an optional count."""
    if usual is None:
        return (int, type(None))
    return (int, float) if isinstance(usual, float) else (type(usual),)


def make_strategy(
    name: str,
    space: SearchSpace,
    *,
    task: Task,
    train_deployment: Deployment,
    data: SearchData,
    bounds: Bounds,
    seed: int,
    settings: Settings | Mapping[str, Any] | None = None,
    evaluator: str = "supernet",
    goal: Goal | None = None,
    supernet_weights: Mapping[str, Tensor] | None = None,
    history: Sequence[Trial] = (),
) -> WeightSharing:
    """The strategy of a name, ready for its first step.

    Args:
        train_deployment: Shape and classes of the images in `data`; the space's own deployment is
            what is estimated and bounded.
        seed: The only source of randomness: one seed, one sequence of trials.
        settings: From `make_settings`, or the values that differ from the defaults.
        goal: The task's metric alone if None.
        supernet_weights: A supernet trained before for this space and training shape; it is
            searched without the training that would make one.
        history: Trials of an earlier search, for the evaluator ``predictor``.
    Raises: `NothingWithinBounds` if no architecture holds the bounds; else as `make_settings`.
    """
    if not isinstance(settings, Settings):
        settings = make_settings(name, settings, evaluator=evaluator)
    if settings.strategy != name:
        raise UsageError(f"Settings of {settings.strategy} are not those of {name}.")
    goal = goal or Goal(task.metric)
    entry = STRATEGIES[name]
    if entry.make is not None:
        if goal.form != "metric":
            raise UsageError(f"{name} has a loss of its own: it takes no goal but {task.metric}.")
        return entry.make(
            space, task=task, train_deployment=train_deployment, data=data, bounds=bounds,
            seed=seed, settings=settings.own, supernet_weights=supernet_weights,
        )  # fmt: skip
    assert entry.sampler is not None and settings.evaluator is not None
    material = Material(space, task, train_deployment, data, seed, supernet_weights, history)
    return Proposing(
        space,
        entry.sampler(space, bounds, goal, settings.own, seed),
        EVALUATORS[settings.evaluator].make(material, settings.evaluating),
        bounds=bounds,
        goal=goal,
        seed=seed,
        settings=settings.own,
    )
