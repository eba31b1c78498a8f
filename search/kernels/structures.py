"""What the kernels of units and of their sums are given, field by field as in C++."""

from __future__ import annotations

import ctypes
from typing import Any


class Shape(ctypes.Structure):
    """`Unit` of units.h."""

    _fields_ = [
        (name, ctypes.c_int64)
        for name in ["n", "h", "w", "ci", "co", "ho", "wo", "kernel", "stride", "dilation"]
    ]  # fmt: skip


def _structure(texts: str) -> list[tuple[str, Any]]:
    """Fields: pointers, but for ``name:d`` a double and ``name:i`` an integer."""
    kinds = {"": ctypes.c_void_p, "d": ctypes.c_double, "i": ctypes.c_int64}
    return [
        (name, kinds[kind]) for name, _, kind in (text.partition(":") for text in texts.split())
    ]


class ForwardPass(ctypes.Structure):
    """`Forward` of units.h, which says what is what."""

    _fields_ = [("u", Shape), *_structure(
        "x a b depthwise pointwise y gamma beta running_mean running_variance norm "
        "epsilon:d momentum:d threads:i"
    )]  # fmt: skip


class BackwardPass(ctypes.Structure):
    """`Backward` of units.h, which says what is what."""

    _fields_ = [("u", Shape), *_structure(
        "x a b depthwise pointwise y g sums products gamma norm ggamma gbeta gx gdepthwise "
        "gpointwise gsums gproducts scale:d add:i threads:i"
    )]  # fmt: skip


class Term(ctypes.Structure):
    """`Term` of mixing.cpp: what a weighted sum takes so much of."""

    _fields_ = _structure("values a b weight:d")
