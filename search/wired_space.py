"""What spaces of cells have in common: they are wired, and the rest follows from the wiring."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from random import Random
from typing import TYPE_CHECKING, Any

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.cost import CostTerm
from nasdeploy.latency_tables.key import OpKey
from nasdeploy.search.space import Arch, Decision, Deployment, Op, SearchSpace, check_arch
from nasdeploy.search.wiring import IMAGE, Plan, PlanWiring, Shape, TermWiring, Wire, Wiring

if TYPE_CHECKING:
    from torch import nn

    from nasdeploy.search.supernet import Mixing, Supernet
    from nasdeploy.search.task import Task


class PlannedSpace(ABC):
    """A `SearchSpace` that says of an architecture which operators it has and how they are wired.

    Attributes:
        keep_spare: Networks hold the parameters of operators on which nothing depends, as the
            published ones do; no file has them.
        once: Networks compute once what several edges compute of the same inputs without weights,
            and `cost_terms` know it.
    """

    name: str
    deployment: Deployment
    decisions: tuple[Decision, ...]
    keep_spare = False
    once = False

    @property
    @abstractmethod
    def config(self) -> Mapping[str, Any]: ...

    @abstractmethod
    def plan(self, arch: Arch, deployment: Deployment | None = None) -> Plan:
        """The operators of one architecture, and how they are wired; the head is not in it."""

    @abstractmethod
    def cost_terms(self) -> tuple[CostTerm, ...]: ...

    def sample(self, rng: Random) -> Arch:
        drawn = tuple(rng.randrange(len(decision.choices)) for decision in self.decisions)
        return self.canonical_arch(drawn)

    def mutate(self, arch: Arch, rng: Random) -> Arch:
        """`arch` with one decision, drawn evenly from those that matter, changed."""
        at = rng.choice(self.changeable(arch))
        others = [c for c in range(len(self.decisions[at].choices)) if c != arch[at]]
        return self.canonical_arch((*arch[:at], rng.choice(others), *arch[at + 1 :]))

    def idle(self, arch: Arch) -> frozenset[int]:
        """Decisions of which another choice would make the same network."""
        return frozenset()

    def canonical_arch(self, arch: Arch) -> Arch:
        """`arch` with the first choice of every idle decision: the same network."""
        idle = self.idle(arch)
        return tuple(0 if index in idle else choice for index, choice in enumerate(arch))

    def changeable(self, arch: Arch) -> list[int]:
        """Decisions of which another choice makes another network."""
        check_arch(self, arch)
        idle = self.idle(arch)
        several = [
            index
            for index, decision in enumerate(self.decisions)
            if len(decision.choices) > 1 and index not in idle
        ]
        if not several:
            raise UsageError(f"{self.name} has a single architecture: there is nothing to change.")
        return several

    def head_key(self, features: Shape) -> OpKey:
        return OpKey.of("classifier", [features], classes=self.deployment.classes)

    def all_ops(self) -> frozenset[Op]:
        from nasdeploy.search.ops import op_module

        texts = {text for term in self.cost_terms() for text in term.keys}
        keys = [OpKey.parse(text) for text in texts]
        return frozenset(Op(key, partial(op_module, key)) for key in keys)

    def build(self, arch: Arch, *, task: Task, deployment: Deployment | None = None) -> nn.Module:
        from nasdeploy.search.wired import network_of

        deployment = deployment or self.deployment
        plan = self.plan(arch, deployment)
        return network_of(plan, partial(task.head, classes=deployment.classes))

    @abstractmethod
    def supernet(
        self, mixing: Mixing, *, task: Task, deployment: Deployment | None = None
    ) -> Supernet: ...


class WiredSpace(PlannedSpace):
    """A space whose shapes no decision changes: its networks are wired all at once."""

    @abstractmethod
    def wire(self, net: Wiring, image: Wire, deployment: Deployment) -> Wire:
        """Wire everything before the head; returns the features."""

    def plan(self, arch: Arch, deployment: Deployment | None = None) -> Plan:
        check_arch(self, arch)
        deployment = deployment or self.deployment
        net = PlanWiring(arch, keep_spare=self.keep_spare, once=self.once)
        return net.finish(self.wire(net, Wire(IMAGE, deployment.input_shape), deployment))

    def cost_terms(self) -> tuple[CostTerm, ...]:
        return self._cost_terms

    @cached_property
    def _cost_terms(self) -> tuple[CostTerm, ...]:
        net = TermWiring(self.decisions)
        features = self.wire(net, Wire(IMAGE, self.deployment.input_shape), self.deployment)
        return net.finish(self.head_key(features.shape))

    def supernet(
        self,
        mixing: Mixing,
        *,
        task: Task,
        deployment: Deployment | None = None,
        partial_channels: int = 1,
    ) -> Supernet:
        """All architectures in one network.

        Args:
            partial_channels: Operators on edges take one channel in so many, and the rest pass by
                (PC-DARTS; `search.wired.PartialChoice`).
        Raises: `UsageError` if there is an edge whose channels cannot be parted so.
        """
        from nasdeploy.search.supernet import Supernet
        from nasdeploy.search.wired import SupernetWiring

        deployment = deployment or self.deployment
        net = SupernetWiring(mixing, partial_channels)
        features = self.wire(net, Wire(IMAGE, deployment.input_shape), deployment)
        body = net.finish(features, task.head(features.shape, deployment.classes))
        build = partial(self.build, task=task, deployment=deployment)
        return Supernet(body, build, partial=partial_channels)


def partial_supernet(
    space: SearchSpace, mixing: Mixing, *, task: Task, deployment: Deployment, channels: int
) -> Supernet:
    """A supernet whose operators take one channel in `channels`.

    Raises: `UsageError` for a space that has no edges, or whose channels cannot be parted so.
    """
    if not isinstance(space, WiredSpace):
        raise UsageError(
            f"{space.name} has no edges of which a part of the channels could pass by its "
            "operators: take --strategy darts, or --set partial_channels=1."
        )
    return space.supernet(mixing, task=task, deployment=deployment, partial_channels=channels)


def checked_deployment(
    name: str, usual: Deployment, input_shape: Sequence[int] | None, classes: int | None
) -> Deployment:
    """What was asked for, else the usual; `UsageError` naming what makes no network."""
    shape = tuple(usual.input_shape if input_shape is None else input_shape)
    if len(shape) != 3 or any(not isinstance(size, int) or size < 1 for size in shape):
        raise UsageError(
            f"input_shape is {list(shape)}: it takes channels, height and width, such as 3,32,32."
        )
    outputs = usual.classes if classes is None else classes
    if outputs < 2:
        raise UsageError(f"{name} with classes={outputs}: there must be at least 2 classes.")
    return Deployment((shape[0], shape[1], shape[2]), outputs)


def checked_counts(name: str, **counts: int) -> None:
    """`UsageError` for the first that is no whole number above 0."""
    for what, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UsageError(f"{what} of {name} is {value!r}: it must be a whole number above 0.")
