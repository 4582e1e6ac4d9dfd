"""Ray for tests: on this machine, or as two nodes of which a test kills one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray

import recbole_lite

QUIET = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
_SIZES = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@contextmanager
def importable(*folders: str | Path) -> Iterator[None]:
    """Ray's workers are processes of their own; the tests need no installed package.

    Nor do workers wait for other work on the machine, as Ray has them do.
    """
    paths = [str(Path(recbole_lite.__file__).parents[1]), *map(str, folders)]
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("RAY_worker_niceness", "0")
        yield


def patiently(start):
    """Start Ray; it gives itself 30 s, which on a busy machine are not always enough."""
    for attempt in range(3):
        try:
            return start()
        except Exception as error:
            if attempt == 2 or "timed out" not in str(error):
                raise
            ray.shutdown()


@contextmanager
def local_ray(num_cpus: int = 1, **more) -> Iterator[None]:
    """Ray on this machine; a program's own sessions then use it."""
    settings = {**_SIZES, "num_cpus": num_cpus, **QUIET, **more}
    with importable():
        patiently(lambda: ray.init(address="local", **settings))
        try:
            yield
        finally:
            ray.shutdown()


@contextmanager
def two_nodes():
    """Two Ray nodes of one processor each; the driver is on the first. ``second`` may be killed."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    detection = {"health_check_period_ms": 500, "health_check_failure_threshold": 3}
    head = {**_SIZES, "include_dashboard": False, "_system_config": detection}
    both = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    try:
        both.second = patiently(lambda: both.add_node(**_SIZES))
        both.wait_for_nodes()
        yield both
    finally:
        ray.shutdown()
        both.shutdown()
