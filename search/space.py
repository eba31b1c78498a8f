"""What a search sees: decisions, architectures, what they cost, and how to build them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.cost import CostTerm
from nasdeploy.latency_tables.key import OpKey

if TYPE_CHECKING:
    from torch import nn

    from nasdeploy.search.supernet import Mixing, Supernet
    from nasdeploy.search.task import Task

Arch = tuple[int, ...]
"""One choice index per decision of the space."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """The network that ships: what is measured and estimated.

    Attributes:
        input_shape: (channels, height, width) of one image.
        classes: How many outputs the head has.
    """

    input_shape: tuple[int, int, int]
    classes: int


@dataclass(frozen=True, slots=True)
class Decision:
    """One choice to make; `choices` are labels that a person can read."""

    label: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Op:
    """A unit that is measured: a block at its shapes. Two ops are equal if their keys are."""

    key: OpKey
    build: Callable[[], nn.Module]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Op) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    @property
    def input_shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.key.input_shapes


class SearchSpace(Protocol):
    """A finite set of architectures that can be drawn from, stepped in, costed and built."""

    @property
    def name(self) -> str: ...

    @property
    def deployment(self) -> Deployment: ...

    @property
    def decisions(self) -> tuple[Decision, ...]: ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Plain data from which `make_space` makes this space again; tables and runs record it."""
        ...

    def sample(self, rng: Random) -> Arch: ...

    def mutate(self, arch: Arch, rng: Random) -> Arch:
        """`arch` with at least one decision changed."""
        ...

    def all_ops(self) -> frozenset[Op]:
        """What a table must hold: every operator of every architecture, stem and head too."""
        ...

    def cost_terms(self) -> tuple[CostTerm, ...]: ...

    def build(self, arch: Arch, *, task: Task, deployment: Deployment | None = None) -> nn.Module:
        """The stand-alone network, at another shape (a proxy to train on) where one is given."""
        ...

    def supernet(
        self, mixing: Mixing, *, task: Task, deployment: Deployment | None = None
    ) -> Supernet:
        """All architectures in one network; the strategy says how choices mix."""
        ...


def check_arch(space: SearchSpace, arch: Arch) -> None:
    """`UsageError` unless `arch` lies in `space`."""
    sizes = [len(decision.choices) for decision in space.decisions]
    if len(arch) != len(sizes) or any(
        not 0 <= choice < size for choice, size in zip(arch, sizes, strict=True)
    ):
        raise UsageError(
            f"{list(arch)} is not an architecture of {space.name}: it takes {len(sizes)} choices, "
            f"each below {sizes}."
        )


def size_of(space: SearchSpace) -> int:
    """How many architectures there are."""
    return math.prod(len(decision.choices) for decision in space.decisions)
