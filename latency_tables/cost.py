"""How choices become cost: plain data, and arrays compiled from it.

A network's cost is a sum (latency, parameters, multiply-accumulates) or a maximum (peak memory)
over terms. A term looks at none, one or several decisions and says, for each joint choice, which
operators it costs. Everything that the project asks about cost comes from the terms alone: one
architecture, a population, the expectation of a supernet, the exact reachable range, the best
architecture within bounds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CostTerm:
    """The operators that some decisions cost together.

    Attributes:
        decisions: Indices into the space's decisions; empty for what every network has (the stem).
        choices: The number of choices of each of them.
        op_keys: One tuple of operator keys per joint choice, in row-major order of `choices`
            (the last decision varies fastest); an empty tuple costs nothing (a skip).
        multiplicity: How often the operators occur.
    """

    decisions: tuple[int, ...]
    choices: tuple[int, ...]
    op_keys: tuple[tuple[str, ...], ...]
    multiplicity: int = 1

    def __post_init__(self) -> None:
        joint = math.prod(self.choices)
        if len(self.decisions) != len(self.choices) or len(self.op_keys) != joint:
            raise ValueError(
                f"A term over {self.choices} choices needs {joint} joint "
                f"choices, got {len(self.op_keys)} for decisions {self.decisions}"
            )
