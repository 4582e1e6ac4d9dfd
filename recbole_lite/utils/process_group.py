"""The process group of a run in several processes (``--nproc``), through torch.distributed.

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
    """Join the process group; set ``device`` and ``single_spec`` as RecBole does.

    Parameters
    ----------
    final : dict
        ``final_config_dict`` with the keys that affect the process (properties/recbole.yaml).
    """
    cuda = uses_cuda(final)
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


def uses_cuda(config) -> bool:
    """Whether the processes train on GPUs."""
    return bool(config["use_gpu"]) and torch.cuda.is_available()


def is_main_process(config) -> bool:
    """Whether this is the process that writes the files of a run; always true without a group."""
    return config["single_spec"] or dist.get_rank() == 0


def barrier(config) -> None:
    """Wait until all processes have reached this line."""
    if not config["single_spec"]:
        dist.barrier()


def broadcast(config, value: Any) -> Any:
    """Value of the main process, in all processes."""
    values = [value]
    dist.broadcast_object_list(values, device=config["device"])
    return values[0]


@contextmanager
def as_single_process(config) -> Iterator[None]:
    """Keep RecBole's constructors from wrapping what they build for several processes."""
    before = config["single_spec"]
    config["single_spec"] = True
    try:
        yield
    finally:
        config["single_spec"] = before


def all_reduce_counts(counts: Any, device: torch.device) -> None:
    """Add up a dataclass of whole numbers over the processes, in place."""
    names = [entry.name for entry in fields(counts)]
    values = torch.tensor([getattr(counts, name) for name in names], device=device)
    dist.all_reduce(values)
    for name, value in zip(names, values.tolist(), strict=True):
        setattr(counts, name, value)
