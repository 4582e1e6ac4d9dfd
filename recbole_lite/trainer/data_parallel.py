"""Data-parallel training: the gradients are those of one process with the joint batch.

Each process has its share of every batch (``data/sharding.py``). Losses are weighted by what they
are means over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from recbole_lite.model.layers.sharded_embedding import sharded_tables
from recbole_lite.utils.errors import ConfigError


class WeightedLoss:
    """Loss function weighted so that its mean over the processes is the loss of the joint batch.

    Parameters
    ----------
    loss : callable
        Interaction -> mean over its rows, or a tuple of such.
    loader : DataLoader
        Its batches are divided among the processes; one call is one batch.
    count : callable
        Interaction -> number of terms that the loss is a mean over, as a number or tensor.
    model : torch.nn.Module
        Model of the loss.

    Attributes
    ----------
    total : torch.Tensor
        Number of terms of the last batch, in all processes together.
    """

    def __init__(
        self,
        loss: Callable,
        loader,
        count: Callable[[Any], int | torch.Tensor],
        model: torch.nn.Module,
    ):
        self._loss, self._loader, self._count, self._model = loss, loader, count, model
        self._tables = sharded_tables(model).values()
        self._batch = 0
        self.total = torch.zeros(())

    def __call__(self, interaction):
        """Weighted loss; the gradient of the mean over processes is the joint one.

        Raises
        ------
        ConfigError
            The first batch changed the model's state differently in each process.
        """
        rows = rows_in_batch(self._loader, self._batch)
        self._batch += 1
        has_rows = dist.get_rank() < rows
        for table in self._tables:
            table.has_rows = has_rows
        before = _module_state(self._model) if self._batch == 1 else None
        loss = self._loss(interaction)
        if before is not None:
            _check_module_state(self._model, before)
        first = loss[0] if isinstance(loss, tuple) else loss
        own = torch.zeros((), device=first.device)
        if has_rows:
            own += self._count(interaction)
        self.total = own.clone()
        dist.all_reduce(self.total)
        weight = own * dist.get_world_size() / self.total
        return tuple(part * weight for part in loss) if isinstance(loss, tuple) else loss * weight


def rows_in_batch(loader, number: int) -> int:
    """Rows of a batch of the present pass, in all processes together."""
    if getattr(loader, "buckets", None) is not None:
        return loader.buckets.sizes[number]
    size = loader.batch_size
    return min(size, len(loader.sampler) - number * size)


def _module_state(model: torch.nn.Module) -> dict[str, Any]:
    """State of a model beside its parameters: path -> digest of tensors, arrays and numbers."""
    found = {}
    for place, module in model.named_modules():
        if isinstance(module, _BatchNorm):  # see `average_batch_norms`
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


def _check_module_state(model: torch.nn.Module, before: dict[str, Any]) -> None:
    """Refuse a model whose loss changes more than gradients, by the rows that it sees.

    Gradients are summed over the processes; how other changes could be combined is unknown here.
    Changes that are equal in all processes (a count of steps) are allowed.
    """
    now = _module_state(model)
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


def average_batch_norms(model: torch.nn.Module) -> None:
    """Average the running means and variances of batch norms over the processes."""
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats:
            for statistics in (module.running_mean, module.running_var):
                dist.all_reduce(statistics)
                statistics /= dist.get_world_size()


def all_reduce_mean(loss, device: torch.device):
    """Mean over the processes of an epoch's loss, a number or a tuple of numbers."""
    values = torch.tensor(loss, dtype=torch.float64, device=device)
    dist.all_reduce(values)
    values /= dist.get_world_size()
    return tuple(values.tolist()) if isinstance(loss, tuple) else values.item()
