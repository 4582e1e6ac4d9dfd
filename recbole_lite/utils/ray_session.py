"""Ray: import, start or join a cluster, divide its resources."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from recbole_lite.experiments.tune.tune_settings import TuneSettings
from recbole_lite.utils.errors import ConfigError, MissingDependencyError
from recbole_lite.utils.process import children_in_own_group, termination_interrupts

INSTALL = 'pip install "ray[tune]"'
_OBJECT_STORE = 200 * 2**20  # bytes; nothing large passes through it
# Ray reports usage, and insists on a metric that a failed trial cannot have.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables; the sweep speaks for itself
}
# The sweep itself logs what becomes of a trial; only Ray says that a cluster is full.
_LOGGERS = {
    "ray.tune.execution.tune_controller": "CRITICAL",
    "ray.tune.tune": "CRITICAL",
    "ray.tune.execution.insufficient_resources_manager": "WARNING",
}


@dataclass(frozen=True)
class Resources:
    """What each trial gets, and how many run at a time."""

    cpus: float
    gpus: float
    concurrent: int


def import_ray():
    """Ray with its Tune library.

    Raises
    ------
    MissingDependencyError
        With the command that installs it.
    """
    try:
        import ray
        import ray.tune
    except ImportError as error:
        raise MissingDependencyError(f"a sweep needs Ray Tune ({error}); type: {INSTALL}") from None
    return ray


@contextmanager
def session(address: str | None, use_gpu: bool) -> Iterator[Any]:
    """Connect to the cluster at `address`, or start Ray on this machine, for the block.

    A session that exists already (of a program that uses Ray itself) is used and not ended.

    Yields
    ------
    module
        ``ray``.

    Raises
    ------
    ConfigError
        Nobody answers at `address`.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    for name, level in _LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        ray = import_ray()
        joined = ray.is_initialized()
        try:
            with termination_interrupts():  # Ray's own answer to SIGTERM is a dump of its stack
                if not joined:
                    with children_in_own_group():
                        _start(ray, address, use_gpu)
                yield ray
        finally:
            if not joined:
                ray.shutdown()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _start(ray, address: str | None, use_gpu: bool) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        try:
            ray.init(
                address="local",  # never one that happens to be found
                num_cpus=processors(),
                num_gpus=None if use_gpu else 0,
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE,
                **quiet,
            )
        except Exception as error:  # Ray raises plain ones, for a machine that is overloaded, say
            reason = str(error).strip().split("\n")[0]
            raise ConfigError(f"Ray cannot be started here: {reason}") from error
        return
    _check_reachable(address)
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _unreachable(address, str(error).strip().split("\n")[0]) from None


def _check_reachable(address: str) -> None:
    """Try a TCP connection first: Ray itself waits for minutes."""
    if address == "auto":
        return
    if "://" in address:
        raise ConfigError(
            f"ray_address: {address!r}: start the sweep on a machine of the cluster and give "
            "auto or HOST:PORT"
        )
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(f"ray_address: {address!r} is neither auto nor HOST:PORT")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
    except OSError as error:
        raise _unreachable(address, str(error)) from None


def _unreachable(address: str, reason: str) -> ConfigError:
    return ConfigError(
        f"ray_address: no Ray cluster answers at {address!r} ({reason}); start one with "
        "`ray start --head`, or leave --ray-address out to run on this machine"
    )


def processors() -> int:
    """Count the processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def plan_resources(ray, settings: TuneSettings, use_gpu: bool) -> Resources:
    """What each trial gets: as set, else by what the cluster has.

    Raises
    ------
    ConfigError
        A trial is to have more than any machine of the cluster has.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    total = {kind: sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU")}
    gpus = settings.gpus_per_trial
    if gpus is None:
        gpus = 1 if use_gpu and total["GPU"] >= 1 else 0
    if gpus > 1 and int(gpus) != gpus:
        raise ConfigError(f"gpus_per_trial: above 1 it must be a whole number, found {gpus:g}")
    _check_present("gpus_per_trial", "GPU", gpus, nodes)
    cpus = settings.cpus_per_trial
    if cpus is None:
        cpus = max(1, int(total["CPU"] / (total["GPU"] / gpus))) if gpus else 1
    _check_present("cpus_per_trial", "CPU", cpus, nodes)
    fit = sum(_fit(node, cpus, gpus) for node in nodes)
    return Resources(cpus, gpus, min(settings.max_concurrent or fit, max(fit, 1)))


def _check_present(key: str, kind: str, wanted: float, nodes: list[dict[str, float]]) -> None:
    most = max((node.get(kind, 0) for node in nodes), default=0)
    if wanted > most:
        raise ConfigError(
            f"{key}: {wanted:g} requested, but the largest machine has {most:g} "
            f"{kind}{'' if most == 1 else 's'}"
        )


def _fit(node: dict[str, float], cpus: float, gpus: float) -> int:
    """How many trials a machine holds at a time."""
    shares = [node.get("CPU", 0) / cpus]
    if gpus:
        shares.append(node.get("GPU", 0) / gpus)
    return int(min(shares) + 1e-9)
