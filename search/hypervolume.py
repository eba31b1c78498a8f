"""How much of the objectives' space a front covers, and which layer each point is in.

Zitzler and Thiele (IEEE Transactions on Evolutionary Computation 3, 1999): hypervolume, here by
slicing along the last objective. Deb et al. (IEEE Transactions on Evolutionary Computation 6,
2002), section III.A: layers of a population. All objectives are lowered.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nasdeploy.search.pareto import non_dominated

FloatArray = npt.NDArray[np.float64]


def hypervolume(costs: FloatArray, reference: FloatArray) -> float:
    """Of (n, objectives) points up to a reference; points that are not below it cover nothing.

    Slicing doubles the work with each objective: meant for two to four.
    """
    points = np.asarray(costs, np.float64).reshape(-1, len(reference))
    points = points[np.all(points < reference, axis=1)]
    if not len(points):
        return 0.0
    points = points[non_dominated(points)]
    if points.shape[1] == 1:
        return float(reference[0] - points.min())
    if points.shape[1] == 2:
        points = points[np.lexsort((points[:, 1], points[:, 0]))]
        heights = np.minimum.accumulate(np.append(reference[1], points[:, 1]))
        return float(((reference[0] - points[:, 0]) * (heights[:-1] - heights[1:])).sum())
    points = points[np.argsort(points[:, -1], kind="stable")]
    ends = np.append(points[1:, -1], reference[-1])
    return sum(
        (float(end) - float(point[-1])) * hypervolume(points[: index + 1, :-1], reference[:-1])
        for index, (point, end) in enumerate(zip(points, ends, strict=True))
        if float(end) > float(point[-1])
    )


def front_layers(costs: FloatArray) -> npt.NDArray[np.intp]:
    """(n,) 0 for the points of (n, objectives) that none beats, 1 for those that only they beat.

    As in `non_dominated`, equal points are in the same layer. Two objectives need one pass over the
    sorted points; more are compared pair by pair, a matrix of n x n.
    """
    if costs.shape[1] == 2:
        return _layers_of_two(costs)
    less: npt.NDArray[np.bool_] = np.asarray((costs[:, None] <= costs[None]).all(axis=-1))
    beats = less & ~less.T
    beaten_by = beats.sum(axis=0)
    layers = np.full(len(costs), -1, np.intp)
    layer, open_ = 0, np.ones(len(costs), np.bool_)
    while open_.any():
        front = open_ & (beaten_by == 0)
        layers[front] = layer
        open_ &= ~front
        beaten_by = beaten_by - beats[front].sum(axis=0)
        layer += 1
    return layers


def _layers_of_two(costs: FloatArray) -> npt.NDArray[np.intp]:
    """Jensen (IEEE Transactions on Evolutionary Computation 7, 2003), section III: two objectives.

    In the order of the first objective, a point is in the first layer whose last point does not
    beat it; the layers' last points are sorted, so that bisection finds it.
    """
    from bisect import bisect_right

    order = np.lexsort((costs[:, 1], costs[:, 0]))
    layers = np.empty(len(costs), np.intp)
    lasts: list[float] = []  # the lowest second objective of each layer, ascending with the layer
    before: tuple[float, float] | None = None
    layer = 0
    for index, (first, second) in zip(order.tolist(), costs[order].tolist(), strict=True):
        if (first, second) != before:
            layer = bisect_right(lasts, second)
            if layer == len(lasts):
                lasts.append(second)
            else:
                lasts[layer] = second
            before = (first, second)
        layers[index] = layer
    return layers


def crowding(costs: FloatArray, layers: npt.NDArray[np.intp]) -> FloatArray:
    """(n,) crowding distance of each point within its layer; infinite at a layer's ends.

    Deb et al. (2002), section III.B. Objectives are scaled by their span within the layer.
    """
    n, objectives = costs.shape
    distance = np.zeros(n)
    for objective in range(objectives):
        order = np.lexsort((costs[:, objective], layers))
        value, layer = costs[order, objective], layers[order]
        first = np.append(True, layer[1:] != layer[:-1])
        last = np.append(first[1:], True)
        starts = np.flatnonzero(first)
        span = value[np.flatnonzero(last)] - value[starts]
        span = np.repeat(np.where(span > 0, span, 1.0), np.diff(np.append(starts, n)))
        gap = np.empty(n)
        gap[1:-1] = (value[2:] - value[:-2]) / span[1:-1]
        gap[first | last] = np.inf
        distance[order] += gap
    return distance
