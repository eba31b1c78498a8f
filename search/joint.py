"""What searches have in common that learn what to choose while they train a supernet.

An epoch trains the weights and, behind the warm-up, what chooses between candidates; then something
is scored. How it is chosen is the strategy's: it has a file that reads from top to bottom and fills
in what is left open here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, NotRequired, TypedDict, TypeVar

from torch import Tensor

from nasdeploy.errors import UnknownName
from nasdeploy.latency_tables.optimum import check_limits
from nasdeploy.search.data import SearchData
from nasdeploy.search.evaluators.supernet import SupernetEvaluator
from nasdeploy.search.latency_term import LATENCY_TERMS, LatencyTerm
from nasdeploy.search.objective import Bounds
from nasdeploy.search.sanity import SanityCheck
from nasdeploy.search.space import Arch, Deployment, SearchSpace
from nasdeploy.search.strategy import Request, Trial
from nasdeploy.search.supernet_training import SupernetSettings, SupernetTrainer, require
from nasdeploy.search.task import Task

Batch = tuple[Tensor, Tensor]
Phase = Literal["warmup", "search"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JointSettings(SupernetSettings):
    """
    Attributes:
        warmup_epochs: Weights only; none with a trained supernet.
        search_epochs: Weights and choices take turns.
        latency_term: ``"excess"``, ``"add"`` or ``"multiply"``: see `search/latency_term.py`.
            Without a bound on latency there is no term.
        latency_weight: See there.
        sanity_archs: So many architectures are also trained alone at the end of the search, to see
            whether the supernet ranks them alike (`search/sanity.py`); 0 for none.
        sanity_epochs: For how long each.
    """

    warmup_epochs: int = 4
    search_epochs: int = 8
    latency_term: Literal["add", "excess", "multiply"] = "excess"
    latency_weight: float = 2.0
    sanity_archs: int = 0
    sanity_epochs: int = 2

    def __post_init__(self) -> None:
        super(JointSettings, self).__post_init__()
        if self.latency_term not in LATENCY_TERMS:
            raise UnknownName("latency_term", self.latency_term, LATENCY_TERMS)
        weights = {"warmup_epochs": self.warmup_epochs, "latency_weight": self.latency_weight}
        require("at least 0", weights, lambda value: value >= 0)
        epochs = {"search_epochs": self.search_epochs, "sanity_epochs": self.sanity_epochs}
        require("at least 1", epochs, lambda value: value >= 1)
        archs = {"sanity_archs": self.sanity_archs}
        require("0, or at least 3 for a rank", archs, lambda value: value == 0 or value >= 3)


class Given(TypedDict):
    """What every such search is made of, beside its space and its settings.

    Attributes:
        train_deployment: Shape and classes of the images in `data`.
        supernet_weights: Of a supernet that was trained before: there is no warm-up then.
    """

    task: Task
    train_deployment: Deployment
    data: SearchData
    bounds: Bounds
    seed: int
    supernet_weights: NotRequired[Mapping[str, Tensor] | None]


S = TypeVar("S", bound=JointSettings)


class JointSearch(ABC, Generic[S]):
    """A `Strategy`; a step is an epoch.

    Args:
        partial: The candidates take one channel in so many.
    """

    def __init__(
        self,
        space: SearchSpace,
        settings: S,
        given: Given,
        *,
        nesterov: bool = True,
        partial: int = 1,
    ) -> None:
        weights = given.get("supernet_weights")
        self.space, self.settings = space, settings
        self.task, self.data = given["task"], given["data"]
        self.bounds, self.seed = given["bounds"], given["seed"]
        check_limits(self.bounds.limits())
        self.latency = LatencyTerm(settings.latency_term, settings.latency_weight, self.bounds)
        self._warmup_epochs = 0 if weights is not None else settings.warmup_epochs
        self._trainer = SupernetTrainer(
            space,
            task=self.task,
            deployment=given["train_deployment"],
            data=self.data,
            settings=settings,
            epochs=self._warmup_epochs + settings.search_epochs,
            seed=self.seed,
            weights=weights,
            nesterov=nesterov,
            partial=partial,
        )
        self.supernet = self._trainer.supernet
        self._evaluator = SupernetEvaluator(
            self.supernet, task=self.task, data=self.data, settings=settings
        )
        self._sanity = SanityCheck(
            space,
            self._evaluator,
            task=self.task,
            deployment=given["train_deployment"],
            data=self.data,
            bounds=self.bounds,
            seed=self.seed,
            archs=settings.sanity_archs,
            epochs=settings.sanity_epochs,
        )
        self._epoch = 0
        self._progress = "not started"

    @property
    def finished(self) -> bool:
        return self._epoch >= self._trainer.epochs

    @property
    def total_steps(self) -> int:
        return self._trainer.epochs

    @property
    def progress(self) -> str:
        return self._progress

    def step(self) -> list[Trial]:
        """One epoch, and what is scored behind it."""
        if self.finished:
            return []
        epoch = self._epoch
        phase: Phase = "warmup" if epoch < self._warmup_epochs else "search"
        self._trainer.start_epoch(epoch)
        losses = list(self._warm_up(epoch) if phase == "warmup" else self._search(epoch))
        self._epoch += 1
        trials, said = self._scored(epoch, phase)
        if self.finished:
            trials, ranked = self._sanity.at_the_end(trials)
            said += ranked
        loss = sum(losses) / max(len(losses), 1)
        self._progress = f"{phase} {self._epoch}/{self._trainer.epochs}: loss {loss:.3f}, {said}"
        return trials

    @abstractmethod
    def _warm_up(self, epoch: int) -> Iterable[float]:
        """Train the weights; the loss of each batch."""

    @abstractmethod
    def _search(self, epoch: int) -> Iterable[float]:
        """Train the weights and what chooses; the loss of each batch of the weights."""

    @abstractmethod
    def _scored(self, epoch: int, phase: Phase) -> tuple[list[Trial], str]:
        """The trials behind an epoch, and what is said of them."""

    @abstractmethod
    def candidates(self, n: int, *, exclude: frozenset[Arch] = frozenset()) -> list[Arch]:
        """At most `n` architectures within every bound, the best first."""

    def _halves(self, epoch: int) -> Iterator[tuple[Batch, Batch]]:
        """Batches for the weights, and those for what chooses, which weights never see."""
        return zip(
            self._trainer.batches("weights", epoch),
            self._trainer.batches("arch", epoch),
            strict=False,
        )

    def _found_now(
        self,
        epoch: int,
        phase: Phase,
        probabilities: Sequence[Tensor],
        signs: Callable[[Arch], Mapping[str, float]],
    ) -> Trial:
        """The architecture that the search would end with now.

        Args:
            probabilities: (choices,) for each decision.
            signs: Further metrics of an architecture that could be scored.
        """
        best = self.candidates(1)
        if not best:
            check_limits(self.bounds.limits())
        arch = best[0]
        ((_, scored),) = self._evaluator([Request(epoch, arch, self.seed)])
        if isinstance(scored, str):
            return Trial(epoch, arch, failure=scored, phase=phase)
        known = {**self.bounds.known(arch), **self.latency.expected(probabilities)}
        return Trial(epoch, arch, {**scored, **known, **signs(arch)}, phase=phase)

    def supernet_weights(self) -> dict[str, Tensor]:
        """The trained supernet, for another search of the same space and shape."""
        return self.supernet.state_dict()

    def state_dict(self) -> dict[str, Any]:
        return {
            "trainer": self._trainer.state_dict(),
            "epoch": self._epoch,
            "warmup_epochs": self._warmup_epochs,
            "progress": self._progress,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._trainer.load_state_dict(state["trainer"])
        self._epoch = state["epoch"]
        # a search that was handed a trained supernet resumes without being handed it again
        self._warmup_epochs = state["warmup_epochs"]
        self._trainer.epochs = self._warmup_epochs + self.settings.search_epochs
        self._progress = state["progress"]
