"""Tasks as they are, except that the second node dies during its first; Ray's workers import it."""

from __future__ import annotations

import os
import time
from pathlib import Path

import ray

from recbole_lite.inference import recommend_folder
from recbole_lite.text import ray_encoding


def encode(*arguments):
    """Encode a shard."""
    _wait_for_death()
    return ray_encoding._encode(*arguments)


def rank_part(*arguments):
    """Rank a part."""
    _wait_for_death()
    return recommend_folder._rank_part(*arguments)


def _wait_for_death() -> None:
    """On the node that will be killed, for ever; on the other until that one has begun."""
    held = Path(os.environ["HELD_FOLDER"])
    if ray.get_runtime_context().get_node_id() == (held / "doomed").read_text():
        (held / "started").touch()
        time.sleep(600)
    patience = time.monotonic() + 100
    while not (held / "started").exists() and time.monotonic() < patience:
        time.sleep(0.05)
