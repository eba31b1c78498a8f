"""Every space at a size that is built and counted within a second."""

from __future__ import annotations

from typing import Any

from nasdeploy.search.space import SearchSpace
from nasdeploy.search.spaces import make_space

SMALL: dict[str, dict[str, Any]] = {
    "darts": {"channels": 4, "layers": 3, "stem_multiplier": 2},
    "enas-macro": {"channels": 4, "layers": 6},
    "enas-micro": {"channels": 4, "layers": 3, "blocks": 3, "stem_multiplier": 2},
    "mobile-elastic": {
        "stages": [[8, 2, 2], [16, 1, 2]],
        "depths": [1, 2],
        "kernels": [3, 5],
        "expansions": [2, 3],
        "resolutions": [8, 12],
    },
    "mobile-small": {"stem": 8, "stages": [[8, 2, 2], [16, 2, 2]], "features": 16},
    "nasbench201": {"channels": 4, "cells": 1},
    "pnas": {"channels": 4, "layers": 3, "blocks": 3, "combinations": ["add", "concat"]},
}


def small(
    name: str, *, input_shape: tuple[int, int, int] = (3, 12, 12), classes: int = 5
) -> SearchSpace:
    return make_space(name, input_shape=input_shape, classes=classes, **SMALL[name])
