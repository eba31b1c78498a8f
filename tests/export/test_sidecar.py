from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nasdeploy.errors import UsageError
from nasdeploy.export.artifact import Artifact, TensorSpec
from nasdeploy.export.sidecar import artifact_from_json, write_sidecar


@pytest.fixture
def artifact(tmp_path: Path) -> Artifact:
    return Artifact(
        path=tmp_path / "net.tflite",
        runtime="litert",
        precision="int8",
        target="arm64",
        size_bytes=1234,
        sha256="ab" * 32,
        inputs=(TensorSpec("input_0", (1, 28, 28, 1), "int8", "NHWC", 0.02, -3),),
        outputs=(TensorSpec("output_0", (1, 2), "int8", "NC", 0.1, 5),),
        scheme="static_wi8_ai8",
        calibration={"count": 16, "sha256": "cd" * 32},
        delegated_share=1.0,
        versions={"torch": "2.14.1"},
    )


def test_an_app_developer_finds_all_that_the_file_wants(artifact: Artifact) -> None:
    path = write_sidecar(
        artifact, labels=["cat", "dog"], mean=[0.5], std=[0.25], arch=[1, 0], space={"name": "m"}
    )
    assert path.name == "net.tflite.json"
    content = json.loads(path.read_text())
    assert content["labels"] == ["cat", "dog"]
    assert content["normalisation"] == {"pixel_range": [0.0, 1.0], "mean": [0.5], "std": [0.25]}
    assert "round(value / 0.02) + -3" in content["how_to_feed"]
    assert "NHWC, 1x28x28x1, int8" in content["how_to_feed"]
    assert "0.1 * (stored - 5)" in content["how_to_read"]
    assert content["arch"] == [1, 0]


def test_a_float_file_is_fed_without_scales(artifact: Artifact) -> None:
    spec = TensorSpec("input_0", (1, 1, 28, 28), "float32", "NCHW")
    logits = TensorSpec("output_0", (1, 2), "float32", "NC")
    path = write_sidecar(
        replace(artifact, inputs=(spec,), outputs=(logits,)),
        labels=["cat", "dog"],
        mean=[0.5],
        std=[0.25],
    )
    content = json.loads(path.read_text())
    assert "round" not in content["how_to_feed"]
    assert content["how_to_read"].startswith("Logits; the largest")


def test_the_artifact_is_read_back_from_its_sidecar(artifact: Artifact, tmp_path: Path) -> None:
    path = write_sidecar(artifact, labels=["cat", "dog"], mean=[0.5], std=[0.25])
    assert artifact_from_json(json.loads(path.read_text()), tmp_path) == artifact


def test_labels_and_normalisation_must_fit_the_file(artifact: Artifact) -> None:
    with pytest.raises(UsageError, match="2 outputs, and there are 3 labels"):
        write_sidecar(artifact, labels=["a", "b", "c"], mean=[0.5], std=[0.25])
    with pytest.raises(UsageError, match="takes 1 channels"):
        write_sidecar(artifact, labels=["a", "b"], mean=[0.5] * 3, std=[0.25] * 3)
