from __future__ import annotations

import numpy as np
import pytest
from small_search import Blobs, small_space

from nasdeploy.errors import UsageError
from nasdeploy.search.evaluators.predictor import PredictorEvaluator, PredictorEvaluatorSettings
from nasdeploy.search.evaluators.training import ShortTraining, ShortTrainingSettings
from nasdeploy.search.strategy import Request, Trial
from nasdeploy.search.task import Classification

SPACE = small_space()


def requests(n: int) -> list[Request]:
    rng = np.random.default_rng(0)
    sizes = [len(decision.choices) for decision in SPACE.decisions]
    archs = rng.integers(0, sizes, (n, len(sizes))).tolist()
    return [Request(number, tuple(arch), 7) for number, arch in enumerate(archs)]


def short_training(workers: int, **settings: int) -> ShortTraining:
    return ShortTraining(
        SPACE,
        task=Classification(),
        deployment=SPACE.deployment,
        data=Blobs(),
        settings=ShortTrainingSettings(workers=workers, **settings),
    )


@pytest.mark.slow
def test_four_workers_score_as_one_and_the_poor_are_stopped_early() -> None:
    found = []
    for workers in (1, 4):
        evaluator = short_training(workers, longest_epochs=4, halving=2)
        try:
            found.append(dict(evaluator(requests(4))))
        finally:
            evaluator.close()
    assert found[0] == found[1]
    epochs = [outcome["epochs"] for outcome in found[0].values() if not isinstance(outcome, str)]
    assert sorted(epochs) == [1.0, 1.0, 2.0, 4.0]


def test_the_rungs_grow_by_the_halving_up_to_the_longest() -> None:
    assert ShortTrainingSettings(longest_epochs=9, halving=3).rungs == (1, 3, 9)
    assert ShortTrainingSettings(shortest_epochs=2, longest_epochs=5).rungs == (2, 4, 5)
    with pytest.raises(UsageError, match=r"longest_epochs is 1: it must be at least .* \(3\)"):
        ShortTrainingSettings(shortest_epochs=3, longest_epochs=1)


def test_a_predictor_ranks_what_it_did_not_see() -> None:
    weights = np.random.default_rng(1).random((len(SPACE.decisions), 9))

    def value(request: Request) -> float:
        return float(np.mean([weights[i, c] for i, c in enumerate(request.arch)]))

    seen = [Trial(r.number, r.arch, {"accuracy": value(r)}) for r in requests(60)]
    lost = Trial(60, (0,) * len(SPACE.decisions), failure="lost")
    settings = PredictorEvaluatorSettings()
    evaluator = PredictorEvaluator(SPACE, [*seen, lost], metric="accuracy", settings=settings)
    assert evaluator.rank_correlation > 0.7
    new = requests(120)[60:]
    predicted = dict(evaluator(new))
    scores = [out["accuracy"] for out in predicted.values() if not isinstance(out, str)]
    assert np.corrcoef(scores, [value(r) for r in new])[0, 1] > 0.7


def test_a_predictor_of_next_to_nothing_is_refused() -> None:
    trials = [Trial(r.number, r.arch, {"accuracy": 0.5}) for r in requests(5)]
    with pytest.raises(UsageError, match="needs 10 evaluated architectures"):
        PredictorEvaluator(SPACE, trials, metric="accuracy", settings=PredictorEvaluatorSettings())
