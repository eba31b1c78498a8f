"""Seeds that are derived from one seed, so that no two uses of randomness disturb each other."""

from __future__ import annotations

import hashlib


def derived_seed(seed: int, purpose: str, number: int = 0) -> int:
    """A seed of its own for each purpose and number: 0 to 2^63 - 1, unrelated to its neighbours.

    Python's own `hash` differs from process to process, and seed + number makes run 0's second
    epoch equal to run 1's first.
    """
    text = f"{seed}/{purpose}/{number}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1
