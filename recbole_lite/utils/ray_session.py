"""Ray: import, start or join a cluster, divide its resources, run tasks on it."""

from __future__ import annotations

import importlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from recbole_lite.utils.errors import ConfigError, MissingDependencyError, one_line
from recbole_lite.utils.process import children_in_own_group, termination_interrupts

INSTALL = 'pip install "ray[tune]"'  # what the extra "tune" installs
_OBJECT_STORE = 200 * 2**20  # bytes; nothing large passes through it
# Ray reports usage, and insists on a metric that a failed trial cannot have.
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process for a notice that no training uses
    "RAY_worker_niceness": "0",  # of a Ray that is started here: the priority of this program
    "RAY_AIR_NEW_OUTPUT": "0",  # its tables; the sweep speaks for itself
}
# The sweep itself logs what becomes of a trial; only Ray says that a cluster is full.
_LOGGERS = {
    "ray.tune.execution.tune_controller": "CRITICAL",
    "ray.tune.tune": "CRITICAL",
    "ray.tune.execution.insufficient_resources_manager": "WARNING",
}
_RETRIES = 3  # of a task whose process or machine died
_PROBE_SECONDS = 60  # a machine may have to start a process first


@dataclass(frozen=True)
class RayOptions:
    """Where tasks run, and what each of them gets."""

    address: str | None = None  # see :func:`session`
    cpus: int = 1  # processors of a task
    use_gpu: bool = False  # whether each task has a GPU


# -- session ----------------------------------------------------------------------------------


def import_ray(library: str = "ray"):
    """Ray, with one of its libraries.

    Raises
    ------
    MissingDependencyError
        With the command that installs it.
    """
    try:
        importlib.import_module(library)
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingDependencyError(
            f"Ray cannot be imported ({error}); type: {INSTALL} (the extra tune)"
        ) from None


@contextmanager
def session(
    address: str | None, use_gpu: bool, library: str = "ray.tune", log_to_driver: bool = False
) -> Iterator[Any]:
    """Connect to the cluster at `address`, or start Ray on this machine, for the block.

    A session that exists already (of a program that uses Ray itself) is used and not ended.

    Parameters
    ----------
    address : str, optional
        ``auto`` or ``HOST:PORT``; None: ``$RAY_ADDRESS``, else this machine.
    use_gpu : bool
        Whether a Ray that is started here has this machine's GPUs.
    library : str
        Part of Ray that the block needs.
    log_to_driver : bool
        Whether this process prints what the workers print.

    Yields
    ------
    module
        ``ray``.

    Raises
    ------
    ConfigError
        Nobody answers at `address`.
    MissingDependencyError
        Ray is not installed.
    """
    address = address or os.environ.get("RAY_ADDRESS") or None
    for name, level in _LOGGERS.items():
        logging.getLogger(name).setLevel(level)
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        ray = import_ray(library)
        joined = ray.is_initialized()
        try:
            with termination_interrupts():  # Ray's own answer to SIGTERM is a dump of its stack
                if not joined:
                    with children_in_own_group():
                        _start(ray, address, use_gpu, log_to_driver)
                yield ray
        finally:
            if not joined:
                ray.shutdown()
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def _start(ray, address: str | None, use_gpu: bool, log_to_driver: bool) -> None:
    quiet: dict[str, Any] = {"log_to_driver": log_to_driver, "logging_level": "ERROR"}
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
        reason = str(error).strip().split("\n")[0]
        hint = "a cluster with token authentication needs RAY_AUTH_MODE=token here"
        raise _unreachable(address, f"{reason}; {hint}") from None


def _check_reachable(address: str) -> None:
    """Try a TCP connection first: Ray itself waits for minutes."""
    if address == "auto":
        return
    if "://" in address:
        raise ConfigError(
            f"ray_address: {address!r}: start the command on a machine of the cluster and give "
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


# -- resources and files of the machines ------------------------------------------------------


def machines(ray) -> list[dict[str, float]]:
    """Resources of each machine of the cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def capacity(machine: Mapping[str, float], cpus: float, gpus: float) -> int:
    """Number of tasks that a machine runs at a time; each takes `cpus` and `gpus`."""
    shares = [machine.get("CPU", 0) / cpus]
    if gpus:
        shares.append(machine.get("GPU", 0) / gpus)
    return int(min(shares) + 1e-9)


def check_present(key: str, kind: str, wanted: float, nodes: Iterable[Mapping]) -> None:
    """Refuse tasks that no machine has room for; Ray would wait for one.

    `key` is the setting that asks for it, `kind` CPU or GPU, and `nodes` the resources of each
    machine.

    Raises
    ------
    ConfigError
    """
    most = max((node.get(kind, 0) for node in nodes), default=0)
    if wanted > most:
        raise ConfigError(
            f"{key}: {wanted:g} requested, but the largest machine has {most:g} "
            f"{kind}{'' if most == 1 else 's'}"
        )


def check_workers(ray, options: RayOptions, paths: Mapping[str, str | Path]) -> None:
    """Check that tasks fit on a machine, and that every machine sees the files.

    Parameters
    ----------
    ray : module
    options : RayOptions
    paths : mapping
        What a path is (it begins the message) -> the path.

    Raises
    ------
    ConfigError
        Naming the setting, or the path and the machine.
    """
    check_present("cpus_per_worker", "CPU", options.cpus, machines(ray))
    if options.use_gpu:
        check_present("a GPU for each worker", "GPU", 1, machines(ray))
    names, texts = list(paths), [str(path) for path in paths.values()]
    probe = ray.remote(num_cpus=0, max_retries=_RETRIES)(_unseen)
    asked = {
        probe.options(
            scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                node["NodeID"], soft=False
            )
        ).remote(texts): node["NodeManagerAddress"]
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU")  # others get no tasks
    }
    answered, silent = ray.wait(list(asked), num_returns=len(asked), timeout=_PROBE_SECONDS)
    if silent:
        raise ConfigError(
            f"Ray: machine {asked[silent[0]]} has not answered within {_PROBE_SECONDS} s; check it "
            "with `ray status`"
        )
    for one in answered:
        for place in _result(ray, one, "a test of the machine", asked[one]):
            raise ConfigError(
                f"{names[place]}: {texts[place]} is not visible on machine {asked[one]}; put it on "
                "storage that all machines share, under the same path"
            )


def _unseen(paths: list[str]) -> list[int]:
    """Places of the paths that this machine does not see."""
    return [place for place, path in enumerate(paths) if not Path(path).exists()]


# -- tasks ------------------------------------------------------------------------------------


def run_tasks(
    ray, function: Callable, common: Any, arguments: Iterable[tuple], options: RayOptions
) -> Iterator[tuple[Any, Any]]:
    """Call ``function(common, *argument)`` in worker processes, as many at a time as fit.

    A task whose process or machine dies runs again elsewhere, up to three times. A worker process
    runs many tasks: what `function` caches stays.

    Parameters
    ----------
    ray : module
    function : callable
        Of a module that the workers can import.
    common : object
        Sent to each machine once.
    arguments : iterable of tuple
        Drawn as tasks end, so that few are held at once. The first element names the task.
    options : RayOptions

    Yields
    ------
    (object, object)
        Name and result of each task, as they end.

    Raises
    ------
    Exception
        What `function` raised.
    ConfigError
        A task has lost its process again and again.
    """
    gpus = 1 if options.use_gpu else 0
    task = ray.remote(num_cpus=options.cpus, num_gpus=gpus, max_retries=_RETRIES, max_calls=0)(
        function
    )
    pending: dict[Any, Any] = {}
    shared, arguments = ray.put(common), iter(arguments)
    while True:
        room = _room(ray, options) - len(pending)
        for argument in islice(arguments, max(0, room)):
            pending[task.remote(shared, *argument)] = argument[0]
        if not pending:
            return
        (done,), _ = ray.wait(list(pending))
        name = pending.pop(done)
        yield name, _result(ray, done, "task", name)


def _room(ray, options: RayOptions) -> int:
    """Number of tasks to submit: as many as run at once, and one more for each machine."""
    nodes = machines(ray)
    fit = sum(capacity(node, options.cpus, options.use_gpu) for node in nodes)
    return max(1, fit) + len(nodes)


def _result(ray, reference, what: str, name: Any) -> Any:
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise ConfigError(
            f"Ray: {what} {name} was lost {_RETRIES + 1} times ({one_line(error)}); see "
            "Ray's log of the machine, whose memory may be too small"
        ) from None
