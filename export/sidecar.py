"""What an app developer needs beside the file: how to feed it, how to read it, where it is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nasdeploy.durable import write_json
from nasdeploy.errors import UsageError
from nasdeploy.export.artifact import Artifact, TensorSpec


def sidecar_path(artifact: Path) -> Path:
    """``net.tflite`` → ``net.tflite.json``."""
    return artifact.with_name(f"{artifact.name}.json")


def write_sidecar(
    artifact: Artifact,
    path: Path | None = None,
    *,
    labels: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
    arch: Sequence[int] = (),
    space: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write the JSON sidecar of a classifier's file; beside the file by default.

    Args:
        labels: One per class, in the order of the outputs.
        mean, std: Per channel, of pixels scaled to 0..1: the model takes (pixel - mean) / std.
        arch, space: What the network is, as `make_space` takes it.
        extra: More to record, such as parity and measurements.
    Returns: Where it was written.
    Raises: `UsageError` if labels, mean or std do not fit the file's shapes.
    """
    image, logits = artifact.inputs[0], artifact.outputs[0]
    channels = image.shape[{"NCHW": 1, "NHWC": 3}.get(image.layout, -1)]
    if len(mean) != channels or len(std) != channels:
        raise UsageError(
            f"{artifact.path.name} takes {channels} channels, and the normalisation has "
            f"{len(mean)} means and {len(std)} standard deviations."
        )
    if len(labels) != logits.shape[-1]:
        raise UsageError(
            f"{artifact.path.name} has {logits.shape[-1]} outputs, and there are {len(labels)} "
            "labels."
        )
    path = path or sidecar_path(artifact.path)
    content = {
        **artifact.to_json(),
        "labels": list(labels),
        "normalisation": {"pixel_range": [0.0, 1.0], "mean": list(mean), "std": list(std)},
        "how_to_feed": _how_to_feed(image),
        "how_to_read": _how_to_read(logits),
        "arch": list(arch),
        "space": dict(space or {}),
        **(extra or {}),
    }
    write_json(path, content)
    return path


def _how_to_feed(image: TensorSpec) -> str:
    steps = "Scale pixels to 0..1, subtract mean, divide by std"
    if image.scale is not None:
        steps += (
            f", then store as {image.dtype}: round(value / {image.scale:.9g}) + "
            f"{image.zero_point}, clipped to the type's range"
        )
    shape = "x".join(map(str, image.shape))
    return f"{steps}. One image, {image.layout}, {shape}, {image.dtype}."


def _how_to_read(logits: TensorSpec) -> str:
    if logits.scale is None:
        return "Logits; the largest is the class. Softmax makes them probabilities."
    return (
        f"Logits, quantised: {logits.scale:.9g} * (stored - {logits.zero_point}); the largest is "
        "the class, quantised or not."
    )


def artifact_from_json(data: Mapping[str, Any], folder: Path) -> Artifact:
    """The artifact behind `Artifact.to_json`, its file in `folder`; ignores what else is there.

    Raises: `KeyError` or `TypeError` if something is missing.
    """
    specs = {
        edge: tuple(TensorSpec(**{**spec, "shape": tuple(spec["shape"])}) for spec in data[edge])
        for edge in ("inputs", "outputs")
    }
    return Artifact(
        path=folder / data["path"],
        runtime=data["runtime"],
        precision=data["precision"],
        target=data["target"],
        size_bytes=data["size_bytes"],
        sha256=data["sha256"],
        inputs=specs["inputs"],
        outputs=specs["outputs"],
        scheme=data["scheme"],
        calibration=data["calibration"],
        delegated_share=data["delegated_share"],
        versions=data["versions"],
    )
