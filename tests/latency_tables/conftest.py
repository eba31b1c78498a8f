from __future__ import annotations

import pytest
from mobile_terms import Mobile, mobile_terms


@pytest.fixture(scope="session")
def mobile() -> Mobile:
    return mobile_terms()
