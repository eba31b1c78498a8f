"""What a search found, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """An architecture of a space, and the run that found it.

    Attributes:
        space: The space's configuration: name, shape and classes of the network that ships, and
            its own parameters.
        choices: By decision, as a person reads it.
        arch: The same as the index of each choice.
        run: The run's folder; its winner/ holds the weights once they are trained.
        dataset: What it was searched on.
        images: The most of each split that were taken, or None for all.
        estimated_ms: On the table of the search; None without one.
    """

    space: Mapping[str, Any]
    choices: Mapping[str, str]
    arch: tuple[int, ...]
    run: Path
    dataset: str
    images: int | None = None
    estimated_ms: float | None = None

    def __str__(self) -> str:
        known = "" if self.estimated_ms is None else f", {self.estimated_ms:.4g} ms estimated"
        return f"{self.space['name']}: {' '.join(self.choices.values())}{known}"
