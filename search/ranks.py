"""Values as a model sees them, and back: as quantiles of a normal distribution, or scaled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_NODES = 9


class Quantiles:
    """What a model sees in place of values whose scale would mislead it.

    Attributes:
        normal: (n,) the values' ranks as quantiles, equal for equal values.
    """

    def __init__(self, values: FloatArray) -> None:
        from scipy.special import ndtri
        from scipy.stats import rankdata

        self.normal: FloatArray = ndtri((rankdata(values) - 0.5) / len(values))
        order = np.argsort(self.normal, kind="stable")
        self._normal, self._values = self.normal[order], np.asarray(values)[order]

    def values(self, normal: FloatArray) -> FloatArray:
        """The values at quantiles; beyond the highest the scale goes on as in the upper half."""
        found: FloatArray = np.interp(normal, self._normal, self._values)
        top = self._normal[-1]
        middle = len(self._normal) // 2
        run = max(top - self._normal[middle], 1e-9)
        slope = (self._values[-1] - self._values[middle]) / run
        beyond: FloatArray = np.maximum(normal - top, 0.0) * slope
        return found + beyond


class Scaled:
    """Values less their mean, by their deviation: what matters is how much, as on a front.

    Attributes:
        normal: (n,) the scaled values.
    """

    def __init__(self, values: FloatArray) -> None:
        self._mean, self._deviation = float(values.mean()), float(values.std()) or 1.0
        self.normal: FloatArray = (values - self._mean) / self._deviation

    def values(self, normal: FloatArray) -> FloatArray:
        """The values at these places of the scale."""
        return self._mean + self._deviation * normal


def levels(scale: Quantiles | Scaled, mean: FloatArray, deviation: FloatArray) -> FloatArray:
    """(n, levels) equally likely values of variables that are normal on a scale."""
    from scipy.special import ndtri

    nodes = ndtri((np.arange(_NODES) + 0.5) / _NODES)
    return scale.values(mean[:, None] + deviation[:, None] * nodes)
