"""What tests of several folders share."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def builds(pytestconfig: pytest.Config) -> Path:
    """Native runners and fetched wheels, kept from one run of the tests to the next.

    A build is named by all that goes into it, so an old one is never taken for another.
    """
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir("builds")
    for name in ("runners", "wheels"):
        (folder / name).mkdir(exist_ok=True)
    return folder
