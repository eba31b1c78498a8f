"""Values as a model sees them: as quantiles of a normal distribution, as gaps, or scaled."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_NODES = 9
_LEAST_GAP = 0.2  # of the median one, below which no difference is made of it


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


class Gaps:
    """By what values lack to the best, on a logarithmic scale: near the best it is finest.

    Half as much lacking is the same step everywhere, so that networks that learn nothing do not
    stretch the scale on which the good ones are told apart (as a log transform of a cost does that
    is minimised: Hutter et al., LION 2011, section 4.1), and how much better is not lost, as with
    ranks.

    Attributes:
        normal: (n,) with mean 0 and deviation 1; all 0 where the values are equal.
    """

    def __init__(self, values: FloatArray) -> None:
        gaps = values.max() - values
        # half of all at the best: then any that are not
        usual = np.median(gaps) or gaps.max() or 1.0
        logs = -np.log(_LEAST_GAP + gaps / usual)
        self.normal: FloatArray = (logs - logs.mean()) / (logs.std() or 1.0)


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


def levels(scale: Scaled, mean: FloatArray, deviation: FloatArray) -> FloatArray:
    """(n, levels) equally likely values of variables that are normal on a scale."""
    from scipy.special import ndtri

    nodes = ndtri((np.arange(_NODES) + 0.5) / _NODES)
    return scale.values(mean[:, None] + deviation[:, None] * nodes)
