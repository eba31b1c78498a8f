"""Rounds: the order in which graphs are visited, and which rounds count.

Every round visits every graph once, in an order of its own, and the sentinel (one fixed operator)
and the empty graph several times, spread over it. The sentinel tells whether the device ran as
it did in the other rounds.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

QUORUM = 5
QUORUM_SHARE = 0.05


def round_order(
    graphs: Sequence[str], *, sentinel: str, empty: str, visits: int, seed: int, number: int
) -> list[str]:
    """The visits of round `number`: the same for the same seed, whatever was run before."""
    rng = random.Random(f"{seed}/{number}")
    order = list(graphs)
    rng.shuffle(order)
    # from the back, so that the places in front of it stay where they are
    for place in reversed(range(visits)):
        at = round(place * len(order) / max(1, visits - 1))
        pair = [sentinel, empty]
        rng.shuffle(pair)
        order[at:at] = pair
    return order


def sentinel_reading_ms(visits_ns: Sequence[Sequence[int]]) -> float:
    """One number for a round from the wall times of its sentinel visits.

    The fastest run of each visit leaves out an interruption; the median over visits is raised by
    a device that slows down in the middle of the round, and not by one visit that was interrupted
    throughout.
    """
    return float(np.median([min(visit) for visit in visits_ns])) / 1e6


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
