"""What a front can expect to gain from an architecture whose costs are known.

Emmerich et al., "Single- and multiobjective evolutionary optimization assisted by Gaussian random
field metamodels" (IEEE Transactions on Evolutionary Computation 10, 2006), section III: expected
improvement of the hypervolume. Here only the metric is uncertain, which leaves one dimension to
average over: two objectives are exact for each value of the metric. For three and more it is the
expected improvement of a Chebyshev function with weights drawn anew (`search/scalarise.py`).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nasdeploy.search.pareto import non_dominated

FloatArray = npt.NDArray[np.float64]


def expected_gain(
    known: FloatArray, levels: FloatArray, costs: FloatArray, weights: FloatArray
) -> FloatArray:
    """(n,) expected gain, in units of the known points' spans.

    Args:
        known: (m, objectives) what was seen, all to be lowered; the metric is the first, negated.
        levels: (n, levels) equally likely values of each candidate's metric, not negated.
        costs: (n, objectives - 1) of each candidate.
        weights: (objectives,) of the Chebyshev function.
    """
    low, high = known.min(axis=0), known.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    metric = (-levels - low[0]) / span[0]
    others = (costs - low[1:]) / span[1:]
    scaled = (known - low) / span
    if known.shape[1] == 2:
        return _covered(scaled[non_dominated(scaled)], metric, others[:, 0])
    best = float(_chebyshev(scaled, weights).min())
    gain = np.zeros(len(costs))
    for level in metric.T:
        value = _chebyshev(np.column_stack([level, others]), weights)
        gain += np.maximum(best - value, 0.0)
    gain /= metric.shape[1]
    return gain


def _covered(front: FloatArray, metric: FloatArray, cost: FloatArray) -> FloatArray:
    """(n,) mean gain of the area, up to a tenth beyond the worst that was seen."""
    reference = 1.1
    front = front[np.argsort(front[:, 1], kind="stable")]
    starts = np.concatenate([[-np.inf], front[:, 1]])
    ends = np.append(front[:, 1], max(reference, float(front[-1, 1])))
    # between two points of the front, whatever is cheaper than the second is held by the first
    heights = np.append(reference, np.minimum.accumulate(front[:, 0]))
    widths = np.maximum(ends[None] - np.maximum(starts[None], cost[:, None]), 0.0)
    gain = np.zeros(len(cost))
    for level in metric.T:
        gain += (widths * np.maximum(heights[None] - level[:, None], 0.0)).sum(axis=1)
    gain /= metric.shape[1]
    return gain


def _chebyshev(points: FloatArray, weights: FloatArray) -> FloatArray:
    weighted = points * weights
    value: FloatArray = weighted.max(axis=1) + 0.05 * weighted.sum(axis=1)
    return value
