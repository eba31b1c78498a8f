"""Which whole networks are measured beside a table's operators.

A sum of operators is biased, and the bias is fitted on a few whole networks (latency_tables'
estimate). They should span what a search may visit, the lean end most of all, since that is where
searches finish, and between them show every choice.
"""

from __future__ import annotations

import math
from random import Random

from nasdeploy.latency_tables.cost import CompiledCost
from nasdeploy.search.space import Arch, SearchSpace

_DRAWS = 64
_LEANEST, _LAVISHEST = 8.0, -1.0


def spread_archs(space: SearchSpace, macs: CompiledCost, n: int, *, seed: int) -> list[Arch]:
    """`n` different architectures from lean to lavish that cover as many choices as they can.

    Each is the one of 64 draws that adds most choices not seen before. A draw prefers cheap
    choices by a softmax over the multiply-accumulates of a decision, scaled to its own range; the
    preference falls from one architecture to the next, quickly at first, and turns around at the
    end. The first is about as lean as there are any: an estimate that goes on beyond its anchors
    goes on with their error.
    """
    rng = Random(seed)
    relative = _relative_costs(space, macs)
    seen: set[tuple[int, int]] = set()
    chosen: list[Arch] = []
    for index in range(n):
        left = 1 - index / max(1, n - 1)
        preference = _LAVISHEST + (_LEANEST - _LAVISHEST) * left**2
        weights = [[math.exp(-preference * c) for c in costs] for costs in relative]
        draws = [tuple(rng.choices(range(len(w)), w)[0] for w in weights) for _ in range(_DRAWS)]
        # in a small space a preference leaves little to draw
        draws += [space.sample(rng) for _ in range(_DRAWS) if set(draws) <= set(chosen)]
        fresh = [arch for arch in draws if arch not in chosen]
        if not fresh:
            break
        best = max(fresh, key=lambda arch: len(set(enumerate(arch)) - seen))
        seen |= set(enumerate(best))
        chosen.append(best)
    return chosen


def _relative_costs(space: SearchSpace, macs: CompiledCost) -> list[list[float]]:
    """For each decision the cost of its choices, 0 for the cheapest and 1 for the dearest.

    A term over several decisions counts for each of them by its mean over the others.
    """
    totals = [[0.0] * len(decision.choices) for decision in space.decisions]
    for decisions, table in macs.terms:
        for axis, decision in enumerate(decisions):
            others = tuple(other for other in range(len(decisions)) if other != axis)
            for choice, value in enumerate(table.mean(axis=others).tolist()):
                totals[decision][choice] += value
    relative = []
    for costs in totals:
        span = max(costs) - min(costs)
        relative.append([(c - min(costs)) / span if span else 0.0 for c in costs])
    return relative
