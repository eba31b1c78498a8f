"""The strategies by the names the command line takes. Add one: write it, list it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol

from torch import Tensor

from nasdeploy.errors import UnknownName, UsageError
from nasdeploy.search.data import SearchData
from nasdeploy.search.objective import Bounds
from nasdeploy.search.space import Deployment, SearchSpace
from nasdeploy.search.strategies.evolution import EvolutionSettings, evolution
from nasdeploy.search.strategies.one_shot import OneShotSettings
from nasdeploy.search.strategies.proxyless import Proxyless, ProxylessSettings
from nasdeploy.search.strategies.random_search import random_search
from nasdeploy.search.strategy import Strategy
from nasdeploy.search.supernet_training import SupernetSettings
from nasdeploy.search.task import Task


class SupernetStrategy(Strategy, Protocol):
    """A strategy whose trained supernet can be kept and handed to another search."""

    @property
    def total_steps(self) -> int:
        """From the first step to the last, if no budget ends it before: for the time that is left.

        A strategy that runs out of architectures ends earlier.
        """
        ...

    def supernet_weights(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Entry:
    """What makes a strategy, and the class of its settings."""

    make: Callable[..., SupernetStrategy]
    settings: type[SupernetSettings]


STRATEGIES: dict[str, Entry] = {
    "evolution": Entry(evolution, EvolutionSettings),
    "proxyless": Entry(Proxyless, ProxylessSettings),
    "random": Entry(random_search, OneShotSettings),
}


def make_settings(name: str, changes: Mapping[str, Any] | None = None) -> SupernetSettings:
    """A strategy's settings, where `changes` says nothing its defaults.

    Raises: `UnknownName` for a strategy or a setting that there is not, `UsageError` for a value of
        another type or outside what it may be.
    """
    if name not in STRATEGIES:
        raise UnknownName("strategy", name, STRATEGIES)
    kind = STRATEGIES[name].settings
    defaults = {field.name: field.default for field in fields(kind)}
    for setting, value in (changes or {}).items():
        if setting not in defaults:
            raise UnknownName(f"setting of {name}", setting, defaults)
        usual = defaults[setting]
        if isinstance(value, bool) or not isinstance(value, _accepted(usual)):
            raise UsageError(f"{setting} of {name} is {value!r}: its default is {usual!r}.")
    return kind(**(changes or {}))


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
    settings: SupernetSettings | Mapping[str, Any] | None = None,
    supernet_weights: Mapping[str, Tensor] | None = None,
) -> SupernetStrategy:
    """The strategy of a name, ready for its first step.

    Args:
        train_deployment: Shape and classes of the images in `data`; the space's own deployment is
            what is estimated and bounded.
        seed: The only source of randomness: one seed, one sequence of trials.
        settings: The strategy's own class, or the values that differ from its defaults.
        supernet_weights: A supernet trained before for this space and training shape; it is
            searched without the training that would make one.
    Raises: `NothingWithinBounds` if no architecture holds the bounds; else as `make_settings`.
    """
    if not isinstance(settings, SupernetSettings):
        settings = make_settings(name, settings)
    if name not in STRATEGIES:
        raise UnknownName("strategy", name, STRATEGIES)
    entry = STRATEGIES[name]
    if type(settings) is not entry.settings:
        raise UsageError(
            f"{type(settings).__name__} are not the settings of {name}: it takes "
            f"{entry.settings.__name__}."
        )
    return entry.make(
        space,
        task=task,
        train_deployment=train_deployment,
        data=data,
        bounds=bounds,
        seed=seed,
        settings=settings,
        supernet_weights=supernet_weights,
    )
