from __future__ import annotations

import torch

from nasdeploy.pipeline.data import load_data


def test_a_part_of_the_images_has_all_classes_alike_and_is_other_data() -> None:
    whole, part = load_data("fashion-mnist-mini"), load_data("fashion-mnist-mini", images=200)
    assert part.counts == {"train": 200, "validation": 200, "test": 200}
    for split in (part.train, part.validation, part.test):
        assert torch.bincount(split.labels).tolist() == [20] * 10
    assert part.sha256 != whole.sha256
    assert part.sha256 == load_data("fashion-mnist-mini", images=200).sha256
    assert any("200 images" in note for note in part.notes)
    # statistics are of what is trained on
    assert part.normalisation != whole.normalisation


def test_a_part_larger_than_a_split_is_all_of_it_and_the_smallest_has_one_of_each_class() -> None:
    assert load_data("fashion-mnist-mini", images=1500).counts["validation"] == 1000
    assert load_data("fashion-mnist-mini", images=1).counts["train"] == 10
