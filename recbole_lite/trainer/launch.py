"""Starting the processes of a data-parallel training (``--nproc``, ``--num_workers``)."""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from recbole_lite.utils.errors import ConfigError, RecboleLiteError, TrainingError
from recbole_lite.utils.process_group import uses_cuda
from recbole_lite.utils.ray_session import import_ray

_THIS_MACHINE = (None, "localhost", "127.0.0.1")


def needs_launch(config) -> bool:
    """Whether this process must start those that train, instead of training itself.

    Raises
    ------
    ConfigError
        Settings that contradict each other, or that only RecBole's own launching has.
    """
    if not config["single_spec"]:
        return False
    for key in ("nproc", "world_size"):
        value = config[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ConfigError(f"{key} must be a whole number, found {value!r}")
    nproc, workers = config["nproc"] or 1, config["num_workers"]
    if (config["world_size"] or 1) > nproc or config["offset"] or config["ip"] not in _THIS_MACHINE:
        raise ConfigError(
            "world_size, offset, ip: training on several machines runs on Ray; use "
            "--num_workers=N --ray_address=auto instead (docs/scaling.md)"
        )
    if workers is not None and nproc > 1:
        raise ConfigError(
            "nproc and num_workers: both start the processes of one training; --nproc is for this "
            "machine, --num_workers for Ray"
        )
    if workers is None and config["ray_address"] is not None:
        raise ConfigError("ray_address: trains on Ray only with --num_workers=N; add it")
    return nproc > 1 or workers is not None


def launch(run: Callable[..., Any], config, arguments: dict[str, Any]) -> Any:
    """Run ``run(**arguments)`` in several processes as one process group.

    Parameters
    ----------
    run : callable
        Called with `arguments`; each process adds its own keys to ``config_dict``.
    config : LiteConfig
        Keys ``nproc`` and ``port`` (RecBole's), or ``num_workers`` and those of Ray.

    Returns
    -------
    object
        Return value of the first process.

    Raises
    ------
    RecboleLiteError
        Raised by a process; `TrainingError` if one died.
    """
    if config["num_workers"] is not None:
        import_ray("ray.train.torch")
        from recbole_lite.trainer.ray_launch import launch_on_ray

        return launch_on_ray(run, config, arguments)
    nproc = config["nproc"]
    here = torch.cuda.device_count()
    if uses_cuda(config) and here < nproc:
        raise ConfigError(
            f"nproc: {nproc} processes need {nproc} GPUs, visible: {here}; --use_gpu=False "
            "trains on CPUs"
        )
    values = {"nproc": nproc, "port": str(config["port"] or _free_port())}
    queue = torch.multiprocessing.get_context("spawn").SimpleQueue()
    processes = torch.multiprocessing.spawn(
        _process, (run, arguments, values, queue), nprocs=nproc, join=False
    )
    answers: list[tuple[str, Any]] = []
    try:
        over = False
        while not over:
            try:
                over = processes.join(timeout=0.2)
            finally:
                while not queue.empty():  # a process ends only once its answer is read
                    answers.append(queue.get())
    except Exception as problem:
        errors = [answer for kind, answer in answers if kind == "error"]
        if errors:
            raise errors[0] from None
        raise TrainingError(f"a training process failed: {problem}") from None
    finally:
        for process in processes.processes:
            if process.is_alive():
                process.terminate()
    return next(answer for kind, answer in answers if kind == "result")


def _process(rank: int, run, arguments, values, queue) -> None:
    """One of the processes, numbered from 0."""
    if "OMP_NUM_THREADS" not in os.environ:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        torch.set_num_threads(max(1, available // values["nproc"]))
    own = {**(arguments.get("config_dict") or {}), **values, "local_rank": rank}
    try:
        result = run(**{**arguments, "config_dict": own})
    except RecboleLiteError as error:
        queue.put(("error", sendable(error)))
        sys.exit(2)
    if rank == 0:
        queue.put(("result", result))
    if dist.is_initialized():
        dist.destroy_process_group()
    # All is written and answered. The interpreter's own end is left out: threads of the process
    # group that are not over by then abort the process, and with it a finished training.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def sendable(error: RecboleLiteError) -> RecboleLiteError:
    """Error with the same class and message that another process can unpickle."""
    kind = type(error) if type(error) is not RecboleLiteError else TrainingError
    return kind(str(error))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]
