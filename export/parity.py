"""Does a file do what the model does? Arrays against arrays; who ran the file does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nasdeploy.errors import ParityError, UsageError
from nasdeploy.export.artifact import Precision, TensorSpec

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Array = npt.NDArray[np.generic]

MIN_SQNR_DB = {"fp32": 60.0}
"""Float files differ by the order of additions only: 110 to 125 dB were seen, 60 is a defect."""

MIN_AGREEMENT = 0.9
"""Of int8 with the model it came from, where no labels tell what the disagreement costs."""


@dataclass(frozen=True, slots=True)
class Parity:
    """How far outputs are from the model's.

    Attributes:
        max_abs: Largest absolute difference, in the outputs' own unit.
        sqnr_db: Signal to quantisation noise, 10 log10(sum reference² / sum difference²), in dB;
            None where they are equal.
        top1_agreement: Share of images where both have the same largest output; None unless the
            outputs are (images, classes).
        accuracy_reference, accuracy: Share of images where it is the label; None without labels.
    """

    images: int
    max_abs: float
    sqnr_db: float | None
    top1_agreement: float | None
    accuracy_reference: float | None
    accuracy: float | None

    @property
    def drop_points(self) -> float | None:
        """Accuracy lost, in percentage points; negative where the file does better."""
        if self.accuracy is None or self.accuracy_reference is None:
            return None
        return 100 * (self.accuracy_reference - self.accuracy)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "drop_points": self.drop_points}


def compare(
    reference: Array, outputs: Array, labels: Sequence[int] | Array | None = None
) -> Parity:
    """Hold a file's outputs against the model's.

    Args:
        reference: (images, ...) of the model, real values.
        outputs: The same shape, of the file, dequantised and in the same layout.
        labels: (images,) class indices, for outputs of the shape (images, classes).
    Raises: `UsageError` if shapes differ; `ParityError` if an output is not finite.
    """
    import numpy as np

    expected, got = np.asarray(reference, np.float64), np.asarray(outputs, np.float64)
    if expected.shape != got.shape or expected.size == 0:
        raise UsageError(
            f"The model's outputs have the shape {expected.shape} and the file's {got.shape}; "
            "they must be equal and not empty to be compared."
        )
    broken = int((~np.isfinite(got)).sum())
    if broken:
        raise ParityError(
            f"{broken} of the file's {got.size} outputs are NaN or infinite. Check the input's "
            "normalisation and layout against the file's sidecar, or export again as fp32."
        )
    difference = expected - got
    noise, signal = float((difference**2).sum()), float((expected**2).sum())
    agreement = accuracy_reference = accuracy = None
    if expected.ndim == 2:
        top_expected, top_got = expected.argmax(1), got.argmax(1)
        agreement = float((top_expected == top_got).mean())
        if labels is not None:
            truth = np.asarray(labels)
            accuracy_reference = float((top_expected == truth).mean())
            accuracy = float((top_got == truth).mean())
    return Parity(
        images=len(expected),
        max_abs=float(np.abs(difference).max()),
        # a silent model with a noisy file has no signal at all: as bad as the scale goes
        sqnr_db=10 * float(np.log10(max(signal, 1e-300) / noise)) if noise else None,
        top1_agreement=agreement,
        accuracy_reference=accuracy_reference,
        accuracy=accuracy,
    )


def check(parity: Parity, *, precision: Precision, max_drop_points: float = 2.0) -> None:
    """`ParityError` if the file must not ship: fp32 by SQNR, int8 by the accuracy that it costs."""
    minimum = MIN_SQNR_DB.get(precision)
    if minimum is not None and parity.sqnr_db is not None and parity.sqnr_db < minimum:
        raise ParityError(
            f"The {precision} file is {parity.sqnr_db:.1f} dB from the model, and at least "
            f"{minimum:.0f} dB are expected: the conversion changed what the network does. "
            "Compare with another runtime: nasdeploy export --runtime onnxruntime --precision fp32."
        )
    advice = (
        "Calibrate on more images (--calibration-images 256), allow the loss (--max-drop), or "
        "ship fp32 (--precision fp32)."
    )
    drop = parity.drop_points
    if drop is not None:
        if drop > max_drop_points:
            assert parity.accuracy is not None and parity.accuracy_reference is not None
            raise ParityError(
                f"The {precision} file loses {drop:.2f} points of accuracy "
                f"({parity.accuracy_reference:.2%} → {parity.accuracy:.2%}), and at most "
                f"{max_drop_points:g} are allowed. {advice}"
            )
    elif parity.top1_agreement is not None and parity.top1_agreement < MIN_AGREEMENT:
        raise ParityError(
            f"The {precision} file agrees with the model on {parity.top1_agreement:.1%} of "
            f"{parity.images} images, and at least {MIN_AGREEMENT:.0%} are expected. {advice}"
        )


def to_layout(images: Array, spec: TensorSpec) -> Array:
    """(n, C, H, W) in the layout of the file's tensor; (n, features) stays."""
    if spec.layout == "NHWC" and images.ndim == 4:
        return images.transpose(0, 2, 3, 1)
    return images


def from_layout(outputs: Array, spec: TensorSpec) -> Array:
    """A file's outputs as the model gives them, channels first."""
    if spec.layout == "NHWC" and outputs.ndim == 4:
        return outputs.transpose(0, 3, 1, 2)
    return outputs
