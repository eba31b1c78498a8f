from __future__ import annotations

import pytest
import torch

from nasdeploy.errors import BadInput
from nasdeploy.export.quantise import calibration_for_latency, make_calibration, rows_of


def test_a_calibration_knows_its_images() -> None:
    images = torch.arange(5 * 3 * 2 * 2, dtype=torch.float32).reshape(5, 3, 2, 2)
    whole = make_calibration([images])
    assert whole.count == 5
    assert whole.sha256 == make_calibration([images.clone()]).sha256
    assert whole.sha256 != make_calibration([images + 1]).sha256
    last = images.to(memory_format=torch.channels_last)
    assert whole.sha256 == make_calibration([last]).sha256
    rows = list(rows_of(make_calibration([images[:2], images[2:]]), (images[:1],)))
    assert torch.equal(torch.cat([row[0] for row in rows]), images)


def test_images_that_would_spoil_every_range_are_refused() -> None:
    with pytest.raises(BadInput, match="no calibration images"):
        make_calibration([])
    with pytest.raises(BadInput, match="batch 1 holds NaN"):
        make_calibration([torch.zeros(1, 3, 2, 2), torch.full((1, 3, 2, 2), torch.nan)])


def test_random_inputs_follow_their_seed() -> None:
    shapes = [(3, 4, 4), (8,)]
    first, again = (calibration_for_latency(shapes, seed=5) for _ in range(2))
    assert first.sha256 == again.sha256 != calibration_for_latency(shapes, seed=6).sha256
    assert [tuple(t.shape) for t in first.batches[0]] == [(2, 3, 4, 4), (2, 8)]
