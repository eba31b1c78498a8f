"""Rounds: the order in which graphs are visited, and which rounds count.

In every round the graphs stand in an order of their own, cut into *chains* that are gone through
twice. The first pass is cold: it leaves in the caches what a network as long as the chain would
leave there, and the second finds that, as every operator of a network that runs again and again
does. A whole network is a chain by itself. The sentinel (one fixed operator) and the empty graph
are in several chains; the sentinel tells whether the device ran as it did in the other rounds.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

QUORUM = 5
QUORUM_SHARE = 0.05


def round_order(
    graphs: Sequence[str],
    *,
    alone: Collection[str] = (),
    sentinel: str,
    empty: str,
    visits: int,
    chain: int,
    passes: int,
    seed: int,
    number: int,
) -> list[str]:
    """The visits of round `number`: the same for the same seed, whatever was run before.

    Args:
        alone: Those of `graphs` that make a chain of their own.
        visits: Chains that the sentinel and the empty graph are in, at least.
        chain: About how many other graphs share a chain.
        passes: How often each chain is gone through.
    """
    rng = random.Random(f"{seed}/{number}")
    shared = [graph for graph in graphs if graph not in alone]
    rng.shuffle(shared)
    probed = _parts(shared, max(1, round(len(shared) / chain))) if shared else []
    probed += [[] for _ in range(visits - len(probed))]
    for members in probed:
        for probe in (sentinel, empty):
            members.insert(rng.randint(0, len(members)), probe)
    chains = [[graph] for graph in graphs if graph in alone]
    rng.shuffle(chains)
    # from the back, so that the places in front of it stay where they are
    for place in reversed(range(len(probed))):
        at = round(place * len(chains) / max(1, len(probed) - 1))
        chains.insert(at, probed[place])
    return [graph for members in chains for graph in members * passes]


def _parts(graphs: Sequence[str], count: int) -> list[list[str]]:
    """In `count` parts of equal length, give or take one."""
    ends = [round(len(graphs) * part / count) for part in range(count + 1)]
    return [list(graphs[start:end]) for start, end in itertools.pairwise(ends)]


def sentinel_reading_ms(chains_ns: Sequence[Sequence[int]]) -> float:
    """One number for a round from the wall times of the sentinel in each of its chains.

    The fastest run of each leaves out an interruption; the median over chains is raised by a
    device that slows down in the middle of the round, and not by one chain that was interrupted
    throughout.
    """
    return float(np.median([min(runs) for runs in chains_ns])) / 1e6


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which rounds count.

    Attributes:
        reference_ms: What the sentinel takes on this device when nothing disturbs it; None as
            long as too few rounds agree.
        reasons: For each round None when it counts, else why it doesn't.
    """

    reference_ms: float | None
    reasons: tuple[str | None, ...]


def judge(readings_ms: Sequence[float], tolerance: float) -> Verdict:
    """Hold every round's sentinel reading against the fastest state that the device kept.

    That state is the lowest window of readings, `tolerance` wide, that at least 5 rounds and a
    twentieth of all rounds fall into; its median is the reference, and rounds within `tolerance` of
    it count. So one bad round at the start poisons nothing, a few lucky ones don't either, and a
    device that was disturbed while measuring began is found out when the disturbance ends.
    Among the first 10 rounds, until 5 agree, all count for the time being; later none do.

    The verdict depends on the readings alone, so that going on after a kill changes nothing.
    """
    readings = np.asarray(readings_ms, dtype=float)
    reference = _reference_ms(readings, tolerance)
    if reference is None:
        unsettled = f"no {QUORUM} rounds agree on what the sentinel takes"
        reason = unsettled if len(readings) >= 2 * QUORUM else None
        return Verdict(None, (reason,) * len(readings))
    off = readings / reference - 1
    reasons: list[str | None] = [None] * len(readings)
    for index in np.flatnonzero(np.abs(off) > tolerance):
        reasons[index] = _reason(readings[index], off[index], reference)
    return Verdict(reference, tuple(reasons))


def _reference_ms(readings: npt.NDArray[np.float64], tolerance: float) -> float | None:
    quorum = max(QUORUM, int(np.ceil(QUORUM_SHARE * len(readings))))
    ordered = np.sort(readings)
    ends = np.searchsorted(ordered, ordered * (1 + tolerance), side="right")
    enough = np.flatnonzero(ends - np.arange(len(ordered)) >= quorum)
    if not len(enough):
        return None
    start = int(enough[0])
    return float(np.median(ordered[start : ends[start]]))


def _reason(reading_ms: float, off: float, reference_ms: float) -> str:
    return (
        f"the sentinel took {reading_ms:.4f} ms, {abs(off):.0%} "
        f"{'more' if off > 0 else 'less'} than its usual {reference_ms:.4f} ms"
    )
