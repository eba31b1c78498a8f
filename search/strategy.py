"""What the loop drives: anything that proposes architectures and learns from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from nasdeploy.search.space import Arch


@dataclass(frozen=True, slots=True)
class Trial:
    """An architecture, and what is known of it.

    Attributes:
        number: Counts from 0 within a run; with the run's seed it seeds the evaluation.
        metrics: By name with the unit in it: ``"accuracy"`` (0 to 1), ``"latency_ms"`` (the
            estimate), ``"params"``, ``"macs"``, ``"memory_bytes"``.
        failure: Why there are no metrics, or None.
        phase: What the strategy was doing: ``"warmup"``, ``"search"``.
    """

    number: int
    arch: Arch
    metrics: Mapping[str, float] = field(default_factory=dict)
    failure: str | None = None
    phase: str = "search"

    def to_json(self) -> dict[str, Any]:
        return {
            "trial": self.number,
            "arch": list(self.arch),
            "metrics": dict(self.metrics),
            **({"failure": self.failure} if self.failure else {}),
            "phase": self.phase,
        }

    @classmethod
    def of_json(cls, entry: Mapping[str, Any]) -> Trial:
        """What `to_json` wrote."""
        return cls(
            entry["trial"],
            tuple(entry["arch"]),
            dict(entry["metrics"]),
            entry.get("failure"),
            entry["phase"],
        )


class Strategy(Protocol):
    """A search: gradient, evolution, RL, Bayesian, progressive; all of them."""

    def step(self) -> list[Trial]:
        """One visible unit of work: an epoch, a generation, a batch of candidates."""
        ...

    @property
    def finished(self) -> bool:
        """Nothing is left to do; the loop also stops when its budget is spent."""
        ...

    @property
    def progress(self) -> str:
        """A few words about the last step, for the progress line."""
        ...

    def candidates(self, n: int, *, exclude: frozenset[Arch] = frozenset()) -> list[Arch]:
        """The best `n` architectures within every bound on the current estimates, best first."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what comes next, the random state included.

        Tensors and plain data only, so that ``torch.load(weights_only=True)`` reads it.
        """
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class Sampler(Protocol):
    """A strategy that only proposes; one adapter makes a `Strategy` of it and an `Evaluator`."""

    def ask(self, n: int) -> list[Arch]: ...

    def tell(self, trials: Sequence[Trial]) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Request:
    """An architecture to evaluate; (run seed, trial number) seeds whatever is random about it."""

    number: int
    arch: Arch
    seed: int


class Evaluator(Protocol):
    """Scores architectures: short training, a supernet, a published table, a predictor."""

    def __call__(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[int, Mapping[str, float] | str]]:
        """(trial number, metrics) in any order; a text in place of the metrics is a failure."""
        ...
