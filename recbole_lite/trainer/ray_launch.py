"""One training on the workers of a Ray cluster (``--num_workers``), through Ray Train."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ray.train import (
    ControllerError,
    FailureConfig,
    LoggingConfig,
    RunConfig,
    ScalingConfig,
    TrainingFailedError,
    UserCallback,
    get_context,
)
from ray.train.torch import TorchTrainer

from recbole_lite.trainer.launch import sendable
from recbole_lite.utils import ray_session
from recbole_lite.utils.errors import ConfigError, RecboleLiteError, TrainingError, one_line
from recbole_lite.utils.paths import create_unique, run_name
from recbole_lite.utils.process_group import is_lost_peer


def launch_on_ray(run: Callable[..., Any], config, arguments: dict[str, Any]) -> Any:
    """Run ``run(**arguments)`` in ``num_workers`` workers as one process group.

    A training that loses a worker or machine starts again on what is left or joins, and continues
    from its last checkpoint, ``max_failures`` times.

    Parameters
    ----------
    run : callable
        Called with `arguments`; each worker adds its own keys to ``config_dict``.
    config : LiteConfig
    arguments : dict

    Returns
    -------
    object
        Return value of the first worker.

    Raises
    ------
    RecboleLiteError
        Raised by a worker, or the cluster is missing or too small, or its machines do not share
        the folders of the run; `TrainingError` if workers were lost too often.
    """
    wants_gpu = bool(config["use_gpu"])
    with ray_session.session(
        config["ray_address"], wants_gpu, "ray.train.torch", log_to_driver=True
    ) as ray:
        options = plan_workers(ray, config)
        # Ray's own state, and notes of later attempts: on the storage of the run folders.
        folder = create_unique(
            Path(config["checkpoint_dir"]).absolute(), f".ray-{run_name(config)}"
        )
        try:
            paths = {"checkpoint_dir": folder, "the working folder": Path.cwd()}
            ray_session.check_workers(ray, options, paths)
            own: dict[str, Any] = {"attempts_dir": str(folder)}
            if options.use_gpu != wants_gpu:
                own["use_gpu"] = options.use_gpu
            gpu = " and 1 GPU" if options.use_gpu else ""
            print(
                f"{config['num_workers']} workers with {options.cpus} CPU{gpu} each; they start "
                "when the cluster has room for all of them",
                flush=True,
            )
            plan = {"run": run, "arguments": arguments, "own": own, "cwd": str(Path.cwd())}
            return _fit(config, {**plan, "threads": options.cpus}, options, folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def plan_workers(ray, config) -> ray_session.RayOptions:
    """What each worker gets.

    Raises
    ------
    ConfigError
        The cluster has no room for all of them.
    """
    nodes = ray_session.machines(ray)
    cpus, gpus = (int(sum(node.get(kind, 0) for node in nodes)) for kind in ("CPU", "GPU"))
    workers, each = config["num_workers"], config["cpus_per_worker"]
    if each is None:
        each = max(1, cpus // workers) if len(nodes) == 1 else 1
    use_gpu = bool(config["use_gpu"]) and (gpus > 0 or "use_gpu" in config.origins)
    room = sum(ray_session.capacity(node, each, use_gpu) for node in nodes)
    if room < workers:
        raise ConfigError(
            f"num_workers: {workers} workers with {each} CPU{' and 1 GPU' if use_gpu else ''} each "
            f"requested, but the cluster has room for {room} (CPUs: {cpus}, GPUs: {gpus}, "
            f"machines: {len(nodes)})" + ("; --use_gpu=False trains on CPUs" if use_gpu else "")
        )
    return ray_session.RayOptions(config["ray_address"], each, use_gpu)


def _fit(config, plan: dict[str, Any], options: ray_session.RayOptions, folder: Path) -> Any:
    share = {"CPU": options.cpus, **({"GPU": 1} if options.use_gpu else {})}
    failures = config["max_failures"]
    trainer = _Trainer(
        _work,
        train_loop_config=plan,
        scaling_config=ScalingConfig(
            num_workers=config["num_workers"],
            use_gpu=options.use_gpu,
            resources_per_worker=share,
        ),
        run_config=RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            failure_config=FailureConfig(max_failures=failures),
            callbacks=[_FailureCallback()],
            logging_config=LoggingConfig(log_level="CRITICAL"),  # its errors are raised as well
        ),
    )
    try:
        return trainer.fit().return_value
    except SystemExit:  # Ray Train's answer to Ctrl-C
        raise KeyboardInterrupt from None
    except ControllerError as error:
        cause = error.controller_failure
        if isinstance(cause, RecboleLiteError):
            raise cause from None
        raise TrainingError(f"num_workers: Ray Train failed: {one_line(cause)}") from None
    except TrainingFailedError as error:
        lost = getattr(error, "worker_failures", None) or {0: error}
        raise TrainingError(
            f"num_workers: the training lost workers more than max_failures: {failures} times, at "
            f"last worker {min(lost)} ({one_line(lost[min(lost)])})"
        ) from None


class _Trainer(TorchTrainer):
    """Starts fewer helpers: there are no Ray data sets, and the session's end frees its share."""

    def _create_default_callbacks(self):
        helpers = ("DatasetsCallback", "PlacementGroupCleanerCallback")
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in helpers]


class _FailureCallback(UserCallback):
    """Ends a training for an error that would come again; reports workers that are lost."""

    def after_exception(self, run_context, worker_exceptions):
        for error in worker_exceptions.values():
            if isinstance(error, RecboleLiteError):
                raise error
        for rank, error in worker_exceptions.items():
            cause = getattr(error, "health_check_failure", error)  # Ray's, of a worker that died
            print(f"training interrupted: worker {rank}: {one_line(cause)}", flush=True)
        print("it continues when the cluster has room for all workers", flush=True)


def _work(plan: dict[str, Any]) -> Any:
    """Train in a worker, as in the process that the training was started in."""
    os.chdir(plan["cwd"])
    torch.set_num_threads(plan["threads"])
    logging.getLogger().handlers.clear()  # Ray Train's, beside which a run has its own
    arguments = plan["arguments"]
    own = {**plan["own"], "local_rank": get_context().get_local_rank()}
    given = {**(arguments.get("config_dict") or {}), **own}
    try:
        return plan["run"](**{**arguments, "config_dict": given})
    except Exception as error:
        if is_lost_peer(error):
            raise ConnectionError("another worker was lost") from None
        if isinstance(error, RecboleLiteError):
            raise sendable(error) from None
        raise
