"""A file that can go to a device, and all that is known about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor, nn

Precision = Literal["fp32", "int8"]
Target = Literal["arm64", "x86-64"]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or an output of a file.

    Attributes:
        shape: With the batch, in the file's own layout.
        dtype: ``"float32"`` or ``"int8"``, ``"uint8"``.
        layout: ``"NCHW"``, ``"NHWC"``, or ``"NC"`` for features and logits.
        scale, zero_point: real = scale * (stored - zero_point); None where it is not quantised.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """What activations were calibrated on.

    Attributes:
        batches: float32 tensors as the model takes them (N, C, H, W), one tuple per input set;
            each row of a batch is one image.
        count: How many images that is.
        sha256: Of the images' bytes, so that a file says what it was calibrated on.
    """

    batches: Sequence[tuple[Tensor, ...]]
    count: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Artifact:
    """One exported file.

    Attributes:
        scheme: How it is quantised, in words that a reader can look up; ``"none"`` for fp32.
        calibration: ``{"count": ..., "sha256": ...}``, or None for fp32.
        delegated_share: Share of the graph's operators that the accelerated backend takes
            (XNNPACK in ExecuTorch and LiteRT); None where the runtime does not say.
        versions: Of every package that had a part in writing the file.
    """

    path: Path
    runtime: str
    precision: Precision
    target: Target
    size_bytes: int
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    scheme: str
    calibration: Mapping[str, Any] | None
    delegated_share: float | None
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain data for a sidecar; the path is the file's name only."""
        return {**asdict(self), "path": self.path.name}


class Exporter(Protocol):
    """Writes a model as one file for one runtime, and says what it wrote."""

    def __call__(
        self,
        model: nn.Module,
        example_input: tuple[Tensor, ...],
        path: Path,
        *,
        precision: Precision,
        target: Target,
        calibration: Calibration | None = None,
        quantised_io: bool = False,
    ) -> Artifact:
        """Write `model` to `path`, whole or not at all.

        Args:
            model: In eval mode; it is traced, not changed.
            example_input: float32 tensors, batch 1, NCHW for images.
            calibration: Needed for int8.
            quantised_io: For int8: inputs and outputs are int8 too, without the quantise and
                dequantise at the edges (an operator is measured like this, since inside a network
                its neighbours are int8 as well).
        Raises: `ExportError` naming the operator that the format cannot express.
        """
        ...
