"""Arrays against arrays; the expected figures are worked out by hand beside each."""

from __future__ import annotations

import numpy as np
import pytest

from nasdeploy.errors import ParityError, UsageError
from nasdeploy.export.artifact import TensorSpec
from nasdeploy.export.parity import check, compare, from_layout, to_layout

LOGITS = np.array([[3.0, 0.0], [0.0, 3.0], [3.0, 0.0], [0.0, 3.0]], np.float32)


def test_a_difference_of_a_hundredth_is_forty_decibels() -> None:
    parity = compare(LOGITS, LOGITS * 1.01)  # sum(ref²) / sum((0.01 ref)²) = 1e4
    assert parity.sqnr_db == pytest.approx(40, abs=1e-4)
    assert parity.max_abs == pytest.approx(0.03, abs=1e-6)
    assert parity.top1_agreement == 1


def test_equal_outputs_have_no_noise() -> None:
    parity = compare(LOGITS, LOGITS)
    assert parity.sqnr_db is None and parity.max_abs == 0
    check(parity, precision="fp32")


def test_accuracy_counts_what_the_labels_say() -> None:
    other = LOGITS.copy()
    other[0] = other[0, ::-1]
    parity = compare(LOGITS, other, [0, 1, 0, 0])
    assert parity.accuracy_reference == 0.75
    assert parity.accuracy == 0.5
    assert parity.top1_agreement == 0.75
    assert parity.drop_points == 25
    assert parity.to_json()["drop_points"] == 25


def test_a_drop_beyond_the_limit_says_what_to_try() -> None:
    other = LOGITS.copy()
    other[0] = other[0, ::-1]
    parity = compare(LOGITS, other, [0, 1, 0, 1])
    with pytest.raises(ParityError, match=r"loses 25\.00 points.*--calibration-images") as caught:
        check(parity, precision="int8")
    assert caught.value.exit_code == 6
    check(parity, precision="int8", max_drop_points=25)


def test_int8_without_labels_is_held_by_agreement() -> None:
    other = LOGITS.copy()
    other[0] = other[0, ::-1]
    with pytest.raises(ParityError, match=r"agrees .* on 75\.0% of 4 images"):
        check(compare(LOGITS, other), precision="int8")


def test_a_float_file_that_differs_is_a_defect() -> None:
    parity = compare(LOGITS, LOGITS * 1.01)
    with pytest.raises(ParityError, match=r"40\.0 dB"):
        check(parity, precision="fp32")


def test_outputs_that_are_not_finite_never_pass() -> None:
    with pytest.raises(ParityError, match="1 of the file's 8 outputs are NaN"):
        compare(LOGITS, np.where(np.arange(8).reshape(4, 2) == 3, np.nan, LOGITS))


def test_outputs_of_another_shape_are_not_compared() -> None:
    with pytest.raises(UsageError, match=r"\(4, 2\).*\(2, 4\)"):
        compare(LOGITS, LOGITS.T)


def test_layouts_go_there_and_back() -> None:
    images = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    last = TensorSpec("x", (1, 4, 5, 3), "float32", "NHWC")
    assert to_layout(images, last).shape == (2, 4, 5, 3)
    assert np.array_equal(from_layout(to_layout(images, last), last), images)
    first = TensorSpec("x", (1, 3, 4, 5), "float32", "NCHW")
    assert to_layout(images, first) is images
