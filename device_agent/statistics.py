"""What samples say: quantiles, and an interval from resampling whole rounds.

Samples of one round share what the machine did meanwhile, so they are not independent; rounds are
as good as independent. The interval therefore resamples rounds, never single samples (the cluster
bootstrap: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from nasdeploy.errors import UsageError

Statistic = Literal["min", "p10", "median", "p90", "p95", "mean"]
Clock = Literal["wall", "thread"]
Warmth = Literal["cold", "warm"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)

Floats = npt.NDArray[np.float64]

RESOLUTION_MS = 1e-6  # samples are whole nanoseconds
_RESAMPLES = 1000
_BLOCK = 4_000_000  # resampled values held at once

_QUANTILES: dict[Statistic, float] = {
    "min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "p95": 0.95,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Samples:
    """Every accepted sample of one graph, in milliseconds.

    Attributes:
        wall_ms: (rounds, samples a round); what a clock on the wall saw.
        thread_ms: The same shape: processor time of the thread that ran it; None with more threads
            than one, where it says little.
        starts: (rounds,) number of the process start that each round belongs to.
    """

    wall_ms: Floats
    thread_ms: Floats | None
    starts: npt.NDArray[np.int64]

    def of(self, clock: Clock) -> Floats:
        """The samples by one clock; `UsageError` when it was not read."""
        if clock == "wall":
            return self.wall_ms
        if clock != "thread":
            raise UsageError(f"Unknown clock {clock!r}. Known: thread, wall.")
        if self.thread_ms is None:
            raise UsageError(
                "The thread clock says nothing about a runtime with several threads. "
                "Measure with one thread, or ask for the wall clock."
            )
        return self.thread_ms


def of_warmth(samples_ms: Floats, warmth: Warmth, *, passes: int) -> Floats:
    """The cold or the warm runs among (rounds, chains x passes), as (rounds, fewer)."""
    chains = samples_ms.reshape(len(samples_ms), -1, passes)
    chosen = chains[:, :, :1] if warmth == "cold" else chains[:, :, 1:]
    return chosen.reshape(len(samples_ms), -1)


@dataclass(frozen=True, slots=True)
class Statistics:
    """A graph's latency. All in milliseconds, except `n`, the number of samples.

    Attributes:
        mad_ms: Median absolute deviation from the median, as it is (no factor for normality).
        statistic: The one that `ci95_ms` is an interval of.
        ci95_ms: None where there are too few rounds to resample.
        below_resolution: It took no longer than an empty graph; the values are then
            `RESOLUTION_MS`, not a measurement.
    """

    n: int
    min_ms: float
    p10_ms: float
    median_ms: float
    p90_ms: float
    p95_ms: float
    mean_ms: float
    mad_ms: float
    statistic: Statistic
    ci95_ms: tuple[float, float] | None
    below_resolution: bool = False

    def value(self, statistic: Statistic) -> float:
        check_statistic(statistic)
        return float(getattr(self, f"{statistic}_ms"))


def check_statistic(statistic: str) -> None:
    if statistic not in STATISTICS:
        raise UsageError(f"Unknown statistic {statistic!r}. Known: {', '.join(STATISTICS)}.")


def _of(statistic: Statistic, values: Floats) -> Floats:
    """The statistic over the last axis."""
    if statistic == "mean":
        return np.asarray(values.mean(axis=-1))
    return np.asarray(np.quantile(values, _QUANTILES[statistic], axis=-1))


def summarise(
    samples_ms: Floats,
    *,
    minus_ms: Floats | None = None,
    starts: npt.NDArray[np.int64] | None = None,
    statistic: Statistic = "median",
    seed: int = 0,
) -> Statistics:
    """Statistics of one graph, with a 95 % percentile interval of one of them.

    What a call costs around the graph is in both arrays, so the empty graph's own statistic is
    taken off each: minimum from minimum, median from median. Its upper quantiles are the
    machine's interruptions rather than the cost of a call, so p90 and p95 take its median off.
    Where its noise would leave them out of order they are raised to the one below.

    Args:
        samples_ms: (rounds, samples a round), finite and positive.
        minus_ms: The empty graph's, from the same rounds: (rounds, samples a round of its own).
        starts: (rounds,) process start of each round. Given, the interval resamples starts and
            then rounds within them, and so covers how much one start differs from another.
        seed: Of the resampling.
    """
    check_statistic(statistic)
    values = samples_ms.ravel()
    less: dict[Statistic, float] = dict.fromkeys(STATISTICS, 0.0)
    if minus_ms is not None:
        empty = {name: float(_of(name, minus_ms.ravel())) for name in STATISTICS}
        less = {**empty, "p90": empty["median"], "p95": empty["median"]}
    raw = {name: float(_of(name, values)) - less[name] for name in STATISTICS}
    ordered = np.maximum.accumulate([raw[name] for name in _QUANTILES])
    found = {**dict(zip(_QUANTILES, ordered, strict=True)), "mean": raw["mean"]}
    floored = {name: max(float(value), RESOLUTION_MS) for name, value in found.items()}
    interval = None
    if len(samples_ms) > 1:
        low, high = _interval(samples_ms, statistic, starts, seed) - less[statistic]
        # a long start counts as much as a short one there, and more in the statistic itself
        low, high = min(low, raw[statistic]), max(high, raw[statistic])
        interval = (max(float(low), RESOLUTION_MS), max(float(high), RESOLUTION_MS))
    return Statistics(
        n=values.size,
        **{f"{name}_ms": value for name, value in floored.items()},
        mad_ms=float(np.median(np.abs(values - np.median(values)))),
        statistic=statistic,
        ci95_ms=interval,
        below_resolution=raw["median"] <= 0,
    )


def _interval(
    samples_ms: Floats,
    statistic: Statistic,
    starts: npt.NDArray[np.int64] | None,
    seed: int,
) -> Floats:
    rng = np.random.default_rng(seed)
    rounds = len(samples_ms)
    if starts is None:
        chosen = rng.integers(rounds, size=(_RESAMPLES, rounds))
    else:
        chosen = _rounds_of_starts(rng, starts)
    block = max(1, _BLOCK // samples_ms.size)
    resampled = [
        _of(statistic, samples_ms[rows].reshape(len(rows), -1))
        for rows in (chosen[i : i + block] for i in range(0, len(chosen), block))
    ]
    return np.asarray(np.quantile(np.concatenate(resampled), [0.025, 0.975]))


def _rounds_of_starts(
    rng: np.random.Generator, starts: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """(resamples, rounds): as many starts as there were, drawn anew, and as many rounds of each.

    Each drawn start gives the same number of rounds, so that a long one weighs no more. With three
    starts a draw holds the slowest alone in 1 of 27 cases, which is more than 2.5 %: the upper end
    of a 95 % interval is then about what the slowest start took.
    """
    names = np.unique(starts)
    members = [np.flatnonzero(starts == name) for name in names]
    each = max(1, len(starts) // len(names))
    table = np.stack([rng.choice(rows, size=(_RESAMPLES, len(names), each)) for rows in members])
    combinations = len(names) ** len(names)
    if combinations <= _RESAMPLES:  # few starts: each way to draw them equally often, not by luck
        way = np.arange(_RESAMPLES) % combinations
        drawn = np.stack(np.unravel_index(way, (len(names),) * len(names)), axis=-1)
    else:
        drawn = rng.integers(len(names), size=(_RESAMPLES, len(names)))
    resample, place = np.indices(drawn.shape)
    rows: npt.NDArray[np.int64] = table[drawn, resample, place].reshape(_RESAMPLES, -1)
    return rows
