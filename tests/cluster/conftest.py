"""Two Ray nodes, of which the second is killed while it is at work."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")
from local_ray import importable, two_nodes


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Two nodes; ``cluster.kill_second()`` kills one as soon as a task of `doomed` is on it.

    It returns a thread to join.
    """
    held = tmp_path / "held"
    held.mkdir()
    monkeypatch.setenv("HELD_FOLDER", str(held))
    with importable(Path(__file__).parent), two_nodes() as both:
        (held / "doomed").write_text(both.second.node_id)

        def kill() -> None:
            patience = time.monotonic() + 120
            while not (held / "started").exists() and time.monotonic() < patience:
                time.sleep(0.05)
            both.remove_node(both.second, allow_graceful=False)

        def kill_second() -> threading.Thread:
            thread = threading.Thread(target=kill)
            thread.start()
            return thread

        both.kill_second, both.held = kill_second, held
        yield both
