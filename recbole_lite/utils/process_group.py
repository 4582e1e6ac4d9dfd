"""The process group of a run in several processes, through torch.distributed.

``--nproc`` makes it here, ``--num_workers`` lets Ray Train make it.

Without one (``config["single_spec"]``) nothing here communicates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
import torch.distributed as dist


def init_process_group(final: dict[str, Any]) -> None:
    """Join the process group, unless Ray Train has; set ``device`` and ``single_spec`` as RecBole.

    Parameters
    ----------
    final : dict
        ``final_config_dict`` with the keys that affect the process (properties/recbole.yaml).
    """
    cuda = uses_cuda(final)
    if not dist.is_initialized():  # the baselines of a run come in the same process
        if cuda:
            torch.cuda.set_device(final["local_rank"])
        dist.init_process_group(
            "nccl" if cuda else "gloo",
            rank=final["local_rank"],
            world_size=final["nproc"],
            init_method=f"tcp://localhost:{final['port']}",
        )
    device = torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
    # RecBole's loaders divide by the number of processes.
    final.update(device=device, single_spec=False, world_size=dist.get_world_size())
    if dist.get_rank():
        final.update(state="error", show_progress=False)


def uses_cuda(config) -> bool:
    """Whether the processes train on GPUs."""
    return bool(config["use_gpu"]) and torch.cuda.is_available()


def rank(config) -> int:
    """Number of this process, from 0; 0 without a group."""
    return 0 if config["single_spec"] else dist.get_rank()


def is_main_process(config) -> bool:
    """Whether this is the process that writes the files of a run; always true without a group."""
    return rank(config) == 0


def barrier(config) -> None:
    """Wait until all processes have reached this line."""
    if not config["single_spec"]:
        dist.barrier()


def broadcast(config, value: Any) -> Any:
    """Value of the main process, in all processes."""
    values = [value]
    dist.broadcast_object_list(values, device=config["device"])
    return values[0]


def gather(config, value: Any) -> list[Any]:
    """Values of all processes in the order of their ranks, in all of them."""
    if config["single_spec"]:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def is_lost_peer(error: BaseException | None) -> bool:
    """Whether an error comes of another process of the group that has died."""
    while error is not None:
        # gloo raises plain RuntimeErrors, which name its source file.
        if isinstance(error, dist.DistError) or "/gloo/" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def as_single_process(config) -> Iterator[None]:
    """Keep RecBole's constructors from wrapping what they build for several processes.

    Nor do they start a record of ``log_wandb``, of which each process would have one.
    """
    before = {key: config[key] for key in ("single_spec", "log_wandb")}
    config.final_config_dict.update(single_spec=True, log_wandb=False)
    try:
        yield
    finally:
        config.final_config_dict.update(before)


def all_reduce_counts(counts: Any, device: torch.device) -> None:
    """Add up a dataclass of whole numbers over the processes, in place."""
    names = [entry.name for entry in fields(counts)]
    values = torch.tensor([getattr(counts, name) for name in names], device=device)
    dist.all_reduce(values)
    for name, value in zip(names, values.tolist(), strict=True):
        setattr(counts, name, value)
