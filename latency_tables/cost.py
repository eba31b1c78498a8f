"""How choices become cost: plain data, and arrays compiled from it.

A network's cost is a sum (latency, parameters, multiply-accumulates) or a maximum (peak memory)
over terms. A term looks at none, one or several decisions and says, for each joint choice, which
operators it costs. Everything that the project asks about cost comes from the terms alone: one
architecture, a population, the expectation of a supernet, the exact reachable range, the best
architecture within bounds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import numpy.typing as npt

from nasdeploy.errors import UsageError
from nasdeploy.latency_tables.elimination import (
    Arch,
    Best,
    FloatArray,
    Reduce,
    Term,
    Trellis,
    spread,
)

_JOINT_CHOICES = 4096  # 32 KB of joint costs: what a first-level cache holds
_CHUNK = 8192  # architectures at a time, so that they are still in a cache when they are gathered


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

    @property
    def keys(self) -> frozenset[str]:
        """Every operator that it can cost."""
        distinct = {id(keys): keys for keys in self.op_keys}
        return frozenset(key for keys in distinct.values() for key in keys)

    def __post_init__(self) -> None:
        joint = math.prod(self.choices)
        if len(self.decisions) != len(self.choices) or len(self.op_keys) != joint:
            raise ValueError(
                f"A term over {self.choices} choices needs {joint} joint "
                f"choices, got {len(self.op_keys)} for decisions {self.decisions}"
            )


@dataclass(frozen=True, slots=True)
class Range:
    """What a space can reach: the two ends of a cost, and an architecture at each."""

    low: float
    high: float
    lowest: Arch
    highest: Arch


@dataclass(frozen=True, eq=False)
class CompiledCost:
    """The cost of every architecture of a space, as a few arrays.

    The costs of a sum are held as multiples of one power of two, 2^-52 of the highest possible
    sum, so that adding them is exact in any order. A population, a single architecture, the range
    and the optimum therefore agree to the last bit, and a bound can be held against any of them.

    Attributes:
        choices: The number of choices of each decision of the space.
        terms: (decisions in ascending order, costs shaped by their choices), one per set of
            decisions; what every network costs stands under no decisions, ``()``.
        reduce: How the terms make one number.
    """

    choices: tuple[int, ...]
    terms: tuple[Term, ...]
    reduce: Reduce = "sum"

    @classmethod
    def compile(
        cls,
        terms: Iterable[CostTerm],
        values: Mapping[str, float],
        choices: Sequence[int],
        *,
        reduce: Reduce = "sum",
        what: str = "latency",
        hint: str = "Measure them: nasdeploy profile",
    ) -> Self:
        """The cost that `terms` describe, with a value for each operator.

        Args:
            terms: Of the space.
            values: Cost of each operator key, in one unit.
            choices: The number of choices of each decision of the space.
            reduce: ``"max"`` takes the largest operator and ignores how often it occurs.
            what: Of which cost a value is missing, for the message.
            hint: What supplies missing values, for the message.
        Raises: `UsageError` if an operator has no value, or one that is not finite.
        """
        terms = tuple(terms)
        _check_values(terms, values, what=what, hint=hint)
        tables: list[Term] = []
        for term in terms:
            # Large terms repeat few costs, the same objects over and over: each is added up once.
            distinct = {id(keys): keys for keys in term.op_keys}
            if reduce == "sum":
                of = {
                    name: math.fsum(values[key] for key in keys) * term.multiplicity
                    for name, keys in distinct.items()
                }
            else:
                of = {
                    name: max((values[key] for key in keys), default=0.0)
                    for name, keys in distinct.items()
                }
            costs = [of[id(keys)] for keys in term.op_keys]
            tables.append((term.decisions, np.array(costs, np.float64).reshape(term.choices)))
        return cls.of_tables(tables, choices, reduce=reduce)

    @classmethod
    def of_tables(
        cls, tables: Iterable[Term], choices: Sequence[int], *, reduce: Reduce = "sum"
    ) -> Self:
        """The cost that arrays describe; arrays over the same decisions are joined into one.

        Raises: `ValueError` if an array does not fit its decisions, or if the sum overflows.
        """
        choices = tuple(int(count) for count in choices)
        join = np.add if reduce == "sum" else np.maximum
        merged: dict[tuple[int, ...], FloatArray] = {}
        for decisions, table in tables:
            if table.shape != tuple(choices[d] for d in decisions):
                raise ValueError(f"{table.shape} costs for decisions {decisions} of {choices}")
            if len(set(decisions)) != len(decisions):
                raise ValueError(f"A term looks twice at one decision: {decisions}")
            ascending = tuple(sorted(decisions))
            if not np.isfinite(table).all():
                raise ValueError(f"The costs of decisions {decisions} are not all finite")
            table = np.transpose(table, [decisions.index(d) for d in ascending])
            merged[ascending] = join(merged[ascending], table) if ascending in merged else table
        if reduce == "sum" or not merged:
            merged.setdefault((), np.zeros(()))
        if reduce == "sum":
            merged = _exactly_summable(merged)
        terms = [(decisions, np.array(merged[decisions])) for decisions in sorted(merged)]
        for _, table in terms:
            table.flags.writeable = False
        return cls(choices, tuple(terms), reduce)

    @property
    def constant(self) -> float:
        """What every architecture costs: a part of the sum, or the least that a maximum can be."""
        return next((float(table) for decisions, table in self.terms if not decisions), -math.inf)

    def __call__(self, archs: npt.NDArray[np.integer] | Sequence[Arch]) -> FloatArray:
        """(n,) costs of (n, decisions) choice indices.

        Raises: `UsageError` if a row is not an architecture of the space.
        """
        population = np.asarray(archs)
        if population.size == 0 and population.shape[0] == 0:
            return np.zeros(0)
        self._check_population(population)
        strides, tables = self._packed
        join = np.add if self.reduce == "sum" else np.maximum
        costs = np.full(len(population), self.constant)
        for start in range(0, len(population), _CHUNK):
            chunk = population[start : start + _CHUNK]
            # A matrix product of small whole numbers is exact, and the fastest way to row numbers.
            rows = (strides @ chunk.T.astype(strides.dtype)).astype(np.intp)
            out = costs[start : start + _CHUNK]
            for table, row in zip(tables, rows, strict=True):
                join(out, table.take(row), out=out)
        return costs

    def of(self, arch: Arch) -> float:
        """The cost of one architecture; the same number that a population would get."""
        return float(self(np.array([arch]))[0])

    def range(self) -> Range:
        """The exact ends of the cost over the whole space, by dynamic programming."""
        trellis = Trellis(self.choices, [decisions for decisions, _ in self.terms])
        edges = trellis.edges(self.terms, self.reduce)
        ends: tuple[Best, Best] = ("min", "max")
        lowest, highest = (
            trellis.path(trellis.to_go(edges, self.reduce, best)[0], best) for best in ends
        )
        return Range(self.of(lowest), self.of(highest), lowest, highest)

    def affine(self, scale: float, offset: float) -> CompiledCost:
        """``scale * cost + offset``; a maximum takes a positive scale only."""
        if self.reduce == "max":
            if scale <= 0:
                raise ValueError(f"A maximum cannot be scaled by {scale}")
            tables = [(decisions, table * scale + offset) for decisions, table in self.terms]
        else:
            tables = [(decisions, table * scale) for decisions, table in self.terms]
            tables.append(((), np.array(float(offset))))
        return CompiledCost.of_tables(tables, self.choices, reduce=self.reduce)

    @cached_property
    def _packed(self) -> tuple[npt.NDArray[np.floating], list[FloatArray]]:
        """Terms joined into few tables: (groups, decisions) strides and each group's flat costs."""
        groups: list[tuple[set[int], list[Term]]] = []
        for decisions, table in self.terms:
            if not decisions:
                continue
            for together, members in groups:
                if math.prod(self.choices[d] for d in together | set(decisions)) <= _JOINT_CHOICES:
                    together.update(decisions)
                    members.append((decisions, table))
                    break
            else:
                groups.append((set(decisions), [(decisions, table)]))
        join = np.add if self.reduce == "sum" else np.maximum
        strides = np.zeros((len(groups), len(self.choices)))
        tables: list[FloatArray] = []
        for group, (together, members) in enumerate(groups):
            axes = tuple(sorted(together))
            joint: FloatArray = np.full((1,) * len(axes), 0.0 if self.reduce == "sum" else -np.inf)
            for term in members:
                joint = join(joint, spread(term, axes))
            tables.append(np.broadcast_to(joint, [self.choices[d] for d in axes]).ravel())
            stride = 1
            for decision in reversed(axes):
                strides[group, decision] = stride
                stride *= self.choices[decision]
        exact_in_single = all(len(table) < 2**24 for table in tables)
        return strides.astype(np.float32 if exact_in_single else np.float64), tables

    def _check_population(self, population: npt.NDArray[np.integer]) -> None:
        n = len(self.choices)
        if population.ndim != 2 or population.shape[1] != n:
            raise UsageError(
                f"An array of shape {population.shape} holds no architectures: "
                f"they have {n} decisions, so it must be (architectures, {n})."
            )
        if population.dtype.kind not in "iu":
            raise UsageError(f"Choices are whole numbers, not {population.dtype}.")
        # Seen as unsigned, a negative number is a very large one: one comparison checks both ends.
        unsigned = population.view(np.dtype(f"u{population.dtype.itemsize}"))
        if max(self.choices, default=0) <= np.iinfo(unsigned.dtype).max:
            within = unsigned < np.array(self.choices, unsigned.dtype)
        else:
            within = unsigned < np.array(self.choices, np.uint64)
        if not within.all():
            row, decision = np.argwhere(~within)[0]
            raise UsageError(
                f"Architecture {row} takes choice {population[row, decision]} of decision "
                f"{decision}, which has {self.choices[decision]}."
            )


def _check_values(
    terms: Sequence[CostTerm], values: Mapping[str, float], *, what: str, hint: str
) -> None:
    needed = sorted({key for term in terms for key in term.keys})
    missing = [key for key in needed if key not in values]
    if missing:
        raise UsageError(
            f"There is no {what} for {len(missing)} of {len(needed)} operators, "
            f"first {missing[0]}. {hint}"
        )
    for key in needed:
        if not math.isfinite(values[key]):
            raise UsageError(f"The {what} of {key} is {values[key]}, not a finite number. {hint}")


def _exactly_summable(
    tables: Mapping[tuple[int, ...], FloatArray],
) -> dict[tuple[int, ...], FloatArray]:
    """Costs rounded to multiples of a power of two so small that no sum of them rounds again."""
    highest = math.fsum(float(np.abs(table).max(initial=0.0)) for table in tables.values())
    if not math.isfinite(highest):
        raise ValueError("The sum of the costs is not finite")
    unit = math.ldexp(1.0, math.frexp(highest)[1] - 52)
    if unit == 0.0:
        return dict(tables)
    return {decisions: np.rint(table / unit) * unit for decisions, table in tables.items()}
