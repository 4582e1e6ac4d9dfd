"""One server of test processes for the session."""

from __future__ import annotations

import pytest
from processes import Processes


@pytest.fixture(scope="session")
def processes():
    """Forks runs, see processes.py."""
    with Processes() as server:
        yield server


@pytest.fixture(scope="session")
def world(processes, tmp_path_factory):
    """Settings of a tiny run with an Item LLM to encode."""
    return processes.world(tmp_path_factory.mktemp("world"))
