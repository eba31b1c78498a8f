"""Predicted accuracies: an ensemble that was fitted on what an earlier search evaluated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nasdeploy.errors import UsageError
from nasdeploy.search.ensemble import Ensemble, rank_correlation
from nasdeploy.search.space import SearchSpace, check_arch
from nasdeploy.search.strategy import Request, Trial

_LEAST = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictorEvaluatorSettings:
    """
    Attributes:
        predictor_seed: Of the ensemble's hidden layers and resamples.
    """

    predictor_seed: int = 0


class PredictorEvaluator:
    """An `Evaluator`; answers with the metric, and with how far the ensemble is split (`spread`).

    Args:
        trials: Of an earlier search of the same space; those that failed are left out.
        metric: Which metric of theirs.

    Attributes:
        rank_correlation: Spearman's between values and predictions of ensembles that were not
            fitted on them, five folds; not a number where all values are equal.

    Raises: `UsageError` for fewer than ten trials, or architectures of another space.
    """

    def __init__(
        self,
        space: SearchSpace,
        trials: Sequence[Trial],
        *,
        metric: str,
        settings: PredictorEvaluatorSettings,
    ) -> None:
        # a supernet's later score of an architecture stands for its earlier ones
        known = {t.arch: t.metrics[metric] for t in trials if t.failure is None and t.metrics}
        if len(known) < _LEAST:
            raise UsageError(
                f"A predictor needs {_LEAST} evaluated architectures, the history has {len(known)}."
            )
        for arch in known:
            check_arch(space, arch)
        self.metric = metric
        archs, values = list(known), np.array(list(known.values()))
        seed = settings.predictor_seed
        self.rank_correlation = rank_correlation(space.decisions, archs, values, seed=seed)
        self._ensemble = Ensemble(space.decisions, archs, values, seed=seed)

    def __call__(
        self, requests: Sequence[Request]
    ) -> Iterator[tuple[int, Mapping[str, float] | str]]:
        mean, spread = self._ensemble.predict([request.arch for request in requests])
        for request, value, deviation in zip(requests, mean, spread, strict=True):
            yield request.number, {self.metric: float(value), "spread": float(deviation)}
