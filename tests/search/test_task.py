from __future__ import annotations

import math

import pytest
import torch

from nasdeploy.errors import UsageError
from nasdeploy.search.task import Classification, evaluate


def test_top_1_and_top_5_count_the_images_that_are_right() -> None:
    outputs = torch.eye(8)[:4] * 10 + torch.arange(8.0)  # row i: best i, then 7, 6, 5, 4
    metrics = Classification().metrics(outputs, torch.tensor([0, 7, 5, 0]))
    assert metrics == {"accuracy": 0.25, "top5": 0.75}


def test_with_few_classes_top_5_is_certain() -> None:
    metrics = Classification().metrics(torch.randn(3, 2), torch.tensor([0, 1, 1]))
    assert metrics["top5"] == 1.0


def test_label_smoothing_spreads_its_share_over_all_classes() -> None:
    # Szegedy et al. (CVPR 2016), section 7: (1 - e) H(one-hot, p) + e H(uniform, p)
    logits, target = torch.tensor([[2.0, 0.0, -1.0]]), torch.tensor([0])
    log = logits.log_softmax(1)[0]
    expected = -0.9 * log[0] - 0.1 * log.mean()
    assert float(Classification(0.1).loss(logits, target)) == pytest.approx(float(expected))
    with pytest.raises(UsageError, match=r"label_smoothing is 1\.0"):
        Classification(1.0)


def test_an_image_is_decoded_to_its_label_and_probability() -> None:
    ((label, probability),) = Classification().decode(torch.tensor([[0.0, 1.0]]), ["cat", "dog"])
    assert label == "dog"
    assert probability == pytest.approx(1 / (1 + math.exp(-1)))


def test_no_image_to_evaluate_on_is_an_error() -> None:
    with pytest.raises(UsageError, match="validation split is empty"):
        evaluate(torch.nn.Linear(1, 1), [], Classification())
