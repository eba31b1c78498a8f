"""Quantities as people write them: "100ms", "40%", "3M", "2MB".

Latencies are milliseconds everywhere; a latency without its unit is refused, since 100 could be
meant in either of two units that differ by a thousand.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from nasdeploy.errors import UsageError

_NUMBER = r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*"
_TO_MS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3}
_COUNT = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "b": 10**9}
_BYTES = {
    "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Latency:
    """A latency bound: either milliseconds, or a share of what a space can reach on a table."""

    ms: float | None = None
    share: float | None = None

    def __str__(self) -> str:
        return f"{self.share:.0%}" if self.share is not None else f"{self.ms:g}ms"

    def resolve_ms(self, low_ms: float, high_ms: float) -> float:
        """Milliseconds; a share lies between the fastest (0 %) and the slowest network (100 %)."""
        if self.share is not None:
            return low_ms + self.share * (high_ms - low_ms)
        assert self.ms is not None
        return self.ms


def parse_latency(text: str) -> Latency:
    """``"100ms"``, ``"0.1s"``, ``"250us"`` or a share, ``"40%"``; else `UsageError`."""
    match = re.fullmatch(_NUMBER + r"(us|µs|ms|s|%)", text, re.IGNORECASE)
    if not match:
        bare = re.fullmatch(_NUMBER, text)
        hint = f" Did you mean '{text.strip()}ms'?" if bare else ""
        raise UsageError(
            f"{text!r} is not a latency: write a positive number with its unit, such as 100ms, "
            f"0.1s or 40%.{hint}"
        )
    value, unit = float(match[1]), match[2].lower()
    if not math.isfinite(value) or value <= 0:
        raise UsageError(f"{text!r} is not a latency: it must be more than zero.")
    if unit == "%":
        if value > 100:
            raise UsageError(f"{text!r}: a share of the reachable range is at most 100%.")
        return Latency(share=value / 100)
    return Latency(ms=value * _TO_MS[unit])


def _parse(text: str, units: dict[str, int], kind: str, example: str) -> int:
    match = re.fullmatch(_NUMBER + r"([A-Za-z]*)", str(text))
    if not match or match[2].lower() not in units:
        raise UsageError(f"{text!r} is not a {kind}: write it as {example}.")
    value = float(match[1]) * units[match[2].lower()]
    if not math.isfinite(value) or value < 1:
        raise UsageError(f"{text!r} is not a {kind}: it must be at least 1.")
    return round(value)


def parse_count(text: str) -> int:
    """``"3M"`` → 3,000,000; for parameters and multiply-accumulates."""
    return _parse(text, _COUNT, "count", "3M, 1.5G or 3000000")


def parse_bytes(text: str) -> int:
    """``"2MB"`` → 2,000,000; ``"2MiB"`` → 2,097,152. The unit is required."""
    return _parse(text, _BYTES, "size", "500KB, 2MB or 2MiB")


def format_ms(value: float) -> str:
    """Milliseconds in four significant digits."""
    return f"{value:.4g} ms"


def format_count(value: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def format_bytes(value: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:g} B"
