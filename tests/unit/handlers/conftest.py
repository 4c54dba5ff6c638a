"""Fixtures of the tests of the operator's process."""

from __future__ import annotations

import pytest
from faketime import Run, instant


@pytest.fixture
def instantly() -> Run:
    return instant
