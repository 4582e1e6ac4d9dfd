"""Data-parallel training (``--nproc``): every process trains on its share of each joint batch.

All processes draw the same batches in the same order as one process would, and each takes every
n-th row. Losses are weighted by what they are means over, so that the gradients are those of one
process with the joint batch; RecBole's ``DistributedSampler`` pads with repeated rows instead, and
does not follow a number of windows that changes from epoch to epoch.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from recbole.utils import ModelType
from torch.nn.modules.batchnorm import _BatchNorm

from recbole_lite.utils.errors import ConfigError, RecboleLiteError, TrainingError

_COLLECTED = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")


# -- processes --------------------------------------------------------------------------------


def needs_launch(config) -> bool:
    """Whether this process is to start others that train, rather than to train."""
    if not config["single_spec"]:
        return False
    for key in ("nproc", "world_size"):
        value = config[key]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ConfigError(f"{key} must be a whole number, found {value!r}")
    return max(config["nproc"] or 1, config["world_size"] or 1) > 1


def launch(run: Callable[..., Any], config, arguments: dict[str, Any]) -> Any:
    """Run ``run(**arguments)`` in ``nproc`` processes of this machine that train together.

    Parameters
    ----------
    run : callable
        Takes `arguments`, of which ``config_dict`` is completed for each process.
    config : LiteConfig
        Keys ``nproc``, and with more machines ``world_size``, ``offset``, ``ip``, ``port``
        (RecBole's keys).

    Returns
    -------
    object
        What the first process of this machine returned.

    Raises
    ------
    RecboleLiteError
        A process's own, or `TrainingError` if one died.
    """
    nproc = config["nproc"] or 1
    here = torch.cuda.device_count()
    if _on_cuda(config) and here < nproc:
        raise ConfigError(
            f"nproc: {nproc} processes need as many GPUs, {here} are visible; --use_gpu=False "
            "trains on the processors"
        )
    values = {
        "nproc": nproc,
        "world_size": max(config["world_size"] or 0, nproc),
        "ip": config["ip"] or "localhost",
        "port": str(config["port"] or _free_port()),
        "offset": config["offset"] or 0,
    }
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
                while not queue.empty():  # a process waits until its answer is read
                    answers.append(queue.get())
    except Exception as problem:
        errors = [answer for kind, answer in answers if kind == "error"]
        if errors:
            raise errors[0] from None
        raise TrainingError(f"a process of the training died: {problem}") from None
    finally:
        for process in processes.processes:
            if process.is_alive():
                process.terminate()
    return next(answer for kind, answer in answers if kind == "result")


def _process(rank: int, run, arguments, values, queue) -> None:
    """One of the processes, numbered from 0 on this machine."""
    if "OMP_NUM_THREADS" not in os.environ:
        available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        torch.set_num_threads(max(1, available // values["nproc"]))
    own = {**(arguments.get("config_dict") or {}), **values, "local_rank": rank}
    try:
        result = run(**{**arguments, "config_dict": own})
    except RecboleLiteError as error:
        kind = type(error) if type(error) is not RecboleLiteError else TrainingError
        queue.put(("error", kind(str(error))))
        sys.exit(2)
    if rank == 0:
        queue.put(("result", result))
    if dist.is_initialized():
        dist.destroy_process_group()


def join_group(final: dict[str, Any]) -> None:
    """Meet the other processes; sets ``device`` and ``single_spec`` as RecBole does.

    Parameters
    ----------
    final : dict
        ``final_config_dict`` with the keys that affect the process (properties/recbole.yaml).
    """
    cuda = _on_cuda(final)
    rank = final["local_rank"] + int(final["offset"] or 0)
    if cuda:
        torch.cuda.set_device(final["local_rank"])
    if not dist.is_initialized():  # the baselines of a run come in the same process
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            rank=rank,
            world_size=int(final["world_size"]),
            init_method=f"tcp://{final['ip']}:{final['port']}",
        )
    device = torch.device("cuda", final["local_rank"]) if cuda else torch.device("cpu")
    final.update(device=device, single_spec=False)
    if rank:
        final.update(state="error", show_progress=False)


def _on_cuda(config) -> bool:
    return bool(config["use_gpu"]) and torch.cuda.is_available()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def is_first(config) -> bool:
    """Whether this process writes what a run leaves; the only one does."""
    return config["single_spec"] or dist.get_rank() == 0


def wait_for_all(config) -> None:
    """Go on when all processes are here."""
    if not config["single_spec"]:
        dist.barrier()


def broadcast(config, value: Any) -> Any:
    """The first process's `value`, in all of them."""
    values = [value]
    dist.broadcast_object_list(values, device=config["device"])
    return values[0]


@contextmanager
def alone(config) -> Iterator[None]:
    """Let RecBole's constructors build what one process would have."""
    before = config["single_spec"]
    config["single_spec"] = True
    try:
        yield
    finally:
        config["single_spec"] = before


# -- batches ----------------------------------------------------------------------------------


def share_loaders(config, loaders: tuple) -> tuple:
    """Give this process its share of every batch (training, validation, test).

    A model that counts rather than learns (Pop) is trained on whole batches in every process: what
    it counts has no gradient that would be added up.
    """
    if config["single_spec"]:
        return loaders
    counts = config["MODEL_TYPE"] == ModelType.TRADITIONAL
    for loader, trains in zip(loaders, (True, False, False), strict=True):
        if not (trains and counts):
            loader.collate_fn = _Share(loader.collate_fn, keeps_step=trains)
        loader.shuffle = False  # RecBole would look for its DistributedSampler
    return loaders


def skipping(config, loader_class: type) -> type:
    """Class of an evaluation's loader, which leaves out batches that this process has none of."""
    if config["single_spec"]:
        return loader_class
    return type(f"Shared{loader_class.__name__}", (_Skips, loader_class), {})


class _Share:
    """Every n-th row of a batch.

    A batch of fewer rows than processes leaves some without any. In training they take part with
    a row that counts nothing, as the others wait for them; in evaluation they have no batch.
    """

    def __init__(self, collate: Callable, keeps_step: bool):
        self._collate, self._keeps_step = collate, keeps_step
        self._rank, self._world = dist.get_rank(), dist.get_world_size()

    def __call__(self, index):
        own = index[self._rank :: self._world]
        if len(own) == 0:
            if not self._keeps_step:
                return None
            own = index[:1]
        return self._collate(own)


class _Skips:
    def __iter__(self):
        batches = super().__iter__()
        return (batch for batch in batches if batch is not None)


class WeightedLoss:
    """A model's loss, weighted so that the processes' mean is the loss of the joint batch.

    Parameters
    ----------
    loss : callable
        Interaction -> mean over its rows, or a tuple of such.
    loader : DataLoader
        Whose batches are shared; one call is one batch.
    count : callable
        Interaction -> number of terms that the loss is a mean over, as a number or tensor.
    model : torch.nn.Module
        Whose loss it is.
    """

    def __init__(
        self,
        loss: Callable,
        loader,
        count: Callable[[Any], int | torch.Tensor],
        model: torch.nn.Module,
    ):
        self._loss, self._loader, self._count, self._model = loss, loader, count, model
        self._batch = 0

    def __call__(self, interaction):
        """Weighted loss; the gradient of the mean over processes is the joint one.

        Raises
        ------
        ConfigError
            The first batch has changed the model's own state, in each process otherwise.
        """
        size = self._loader.batch_size
        rows = min(size, len(self._loader.sampler) - self._batch * size)
        self._batch += 1
        has_rows = dist.get_rank() < rows
        before = _own_state(self._model) if self._batch == 1 else None
        loss = self._loss(interaction)
        if before is not None:
            _check_own_state(self._model, before)
        first = loss[0] if isinstance(loss, tuple) else loss
        own = torch.zeros((), device=first.device)
        if has_rows:
            own += self._count(interaction)
        total = own.clone()
        dist.all_reduce(total)
        weight = own * dist.get_world_size() / total
        return tuple(part * weight for part in loss) if isinstance(loss, tuple) else loss * weight


def _own_state(model: torch.nn.Module) -> dict[str, Any]:
    """What a model keeps beside its parameters: place -> digest of tensors, arrays and numbers."""
    found = {}
    for place, module in model.named_modules():
        if isinstance(module, _BatchNorm):  # see `join_batch_norms`
            continue
        own = {**vars(module), **module._buffers}
        for name, value in own.items():
            if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
                value = (id(value), value._version) if value.is_sparse else value.detach().cpu()
            if isinstance(value, torch.Tensor):
                value = value.contiguous().flatten().view(torch.uint8).numpy()
            if isinstance(value, np.ndarray) and value.dtype != object:
                value = hashlib.sha256(np.ascontiguousarray(value)).hexdigest()
            if isinstance(value, (int, float, str, tuple)) and name != "training":
                found[f"{place}.{name}".strip(".")] = value
    return found


def _check_own_state(model: torch.nn.Module, before: dict[str, Any]) -> None:
    """Refuse a model whose training changes more than parameters by the rows that it sees.

    Gradients are added up; what such a change means, and how those of several processes could be
    joined, is known to the model alone. What changes everywhere alike (a count of steps) is fine.
    """
    now = _own_state(model)
    changed = {name: now[name] for name in now if name in before and now[name] != before[name]}
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, changed)
    names = {name for part in parts for name in part}
    different = sorted(n for n in names if len({repr(part.get(n)) for part in parts}) > 1)
    if different:
        raise ConfigError(
            f"nproc: {type(model).__name__} changes {', '.join(different)} in its loss without a "
            "gradient, from the rows of one process alone; train it by one process"
        )


def join_batch_norms(model: torch.nn.Module) -> None:
    """Give all processes the mean of their running means and variances."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            for statistics in (module.running_mean, module.running_var):
                dist.all_reduce(statistics)
                statistics /= dist.get_world_size()


def mean_over_processes(loss, device: torch.device):
    """Mean of an epoch's loss, a number or a tuple of numbers."""
    values = torch.tensor(loss, dtype=torch.float64, device=device)
    dist.all_reduce(values)
    values /= dist.get_world_size()
    return tuple(values.tolist()) if isinstance(loss, tuple) else values.item()


def wrap(model: torch.nn.Module, device: torch.device):
    """``DistributedDataParallel`` over gloo or NCCL; the first process's weights go to all."""
    ids = [device.index] if device.type == "cuda" else None
    return torch.nn.parallel.DistributedDataParallel(model, device_ids=ids)


# -- evaluation -------------------------------------------------------------------------------


def gather_collected(struct) -> None:
    """Join what the processes have collected in an evaluation, in place, in all of them."""
    own = {name: struct.get(name) for name in _COLLECTED if name in struct}
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    for name in dict.fromkeys(name for part in parts for name in part):
        struct.set(name, torch.cat([part[name] for part in parts if name in part]))


def restore_order(joined: torch.Tensor | None, loader) -> torch.Tensor | None:
    """Rows that :func:`gather_collected` has joined, ``[n, ...]``, in the order of the loader."""
    n, size, world = len(loader.sampler), loader.batch_size, dist.get_world_size()
    if joined is None or len(joined) != n:  # not one row for each of the loader's
        return joined
    batches = [np.arange(start, min(start + size, n)) for start in range(0, n, size)]
    order = [batch[rank::world] for rank in range(world) for batch in batches]
    return joined[np.argsort(np.concatenate(order))]


def all_reduce_counts(counts: Any, device: torch.device) -> None:
    """Add up a dataclass of whole numbers over the processes, in place."""
    names = [entry.name for entry in fields(counts)]
    values = torch.tensor([getattr(counts, name) for name in names], device=device)
    dist.all_reduce(values)
    for name, value in zip(names, values.tolist(), strict=True):
        setattr(counts, name, value)


def agreed_folder(config, folder: Callable[[], Path]) -> Path:
    """Folder that the first process makes, in all processes."""
    return Path(broadcast(config, str(folder()) if is_first(config) else None))
