"""How fast a population of the space `mobile` is estimated, and whether the numbers are right.

    python benchmarks/population_estimate.py [--json]

The shipped Pixel 1 table at 3x224x224 and 1000 classes. A population is checked against summing
each network's rows one by one, the range against trying every network of a space cut short.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Mapping, Sequence

import numpy as np

from nasdeploy.latency_tables.cost import CompiledCost, CostTerm
from nasdeploy.latency_tables.elimination import Arch
from nasdeploy.latency_tables.table import find_table, read_table
from nasdeploy.search.spaces import make_space

POPULATION = 100_000
ROUNDS = 9
CUT = 5  # decisions of the space that is tried whole: 3 * 6 * 7 * 7 * 7 = 6,174 networks


def sum_one_by_one(terms: Sequence[CostTerm], values: Mapping[str, float], arch: Arch) -> float:
    """The rows of a network, added up without any of the code that is tested."""
    rows: list[float] = []
    for term in terms:
        joint = 0
        for decision, choices in zip(term.decisions, term.choices, strict=True):
            joint = joint * choices + arch[decision]
        rows += [values[key] for key in term.op_keys[joint]] * term.multiplicity
    return math.fsum(rows)


def range_equals_brute_force(
    terms: Sequence[CostTerm], values: Mapping[str, float], choices: Sequence[int]
) -> bool:
    cut = [term for term in terms if all(decision < CUT for decision in term.decisions)]
    sums = [
        sum_one_by_one(cut, values, arch)
        for arch in itertools.product(*(range(count) for count in choices[:CUT]))
    ]
    reach = CompiledCost.compile(cut, values, choices[:CUT]).range()
    return math.isclose(reach.low, min(sums), abs_tol=1e-9) and math.isclose(
        reach.high, max(sums), abs_tol=1e-9
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    as_json: bool = parser.parse_args().json

    table = read_table(find_table("pixel1"))
    values = table.values(table.default_statistic)
    space = make_space("mobile", input_shape=(3, 224, 224), classes=1000)
    terms = space.cost_terms()
    choices = [len(decision.choices) for decision in space.decisions]
    cost = CompiledCost.compile(terms, values, choices)
    archs = np.random.default_rng(0).integers(0, choices, (POPULATION, len(choices)))

    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        estimates = cost(archs)
        seconds.append(time.perf_counter() - started)
    started = time.perf_counter()
    reach = cost.range()
    range_s = time.perf_counter() - started
    expected = [sum_one_by_one(terms, values, tuple(arch)) for arch in archs.tolist()]
    figures = {
        "archs_per_s": round(POPULATION / sorted(seconds)[ROUNDS // 2]),
        "archs_per_s_best": round(POPULATION / min(seconds)),
        "population": POPULATION,
        "decisions": len(choices),
        "max_abs_error_ms": float(np.abs(estimates - expected).max()),
        "range_ms": [reach.low, reach.high],
        "range_s": round(range_s, 6),
        "range_equals_brute_force": range_equals_brute_force(terms, values, choices),
    }
    if as_json:
        print(json.dumps(figures))
    else:
        for name, value in figures.items():
            print(f"{name:>26}  {value}")


if __name__ == "__main__":
    main()
