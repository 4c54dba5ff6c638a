"""A git server with TLS, as a lab has one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gitservers import GitServer, http_server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitServer]:
    with http_server(tmp_path, tls=True) as git_server:
        yield git_server
