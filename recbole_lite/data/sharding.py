"""Loaders of a data-parallel training (``--nproc``): each process has its share of every batch.

All processes draw the same batches in the same order as one process would, and each takes every
n-th row. RecBole's ``DistributedSampler`` pads with repeated rows instead, and does not follow a
number of windows that changes from epoch to epoch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch.distributed as dist
from recbole.utils import ModelType


def shard_loaders(config, loaders: tuple) -> tuple:
    """Restrict loaders (training, validation, test) to this process's rows of every batch.

    A model that counts instead of learning (Pop) is trained on whole batches in every process:
    counts have no gradient that would be summed.
    """
    if config["single_spec"]:
        return loaders
    counts = config["MODEL_TYPE"] == ModelType.TRADITIONAL
    for loader, trains in zip(loaders, (True, False, False), strict=True):
        if not (trains and counts):
            loader.collate_fn = _Shard(loader.collate_fn, trains, bool(config["shard_items"]))
        loader.shuffle = False  # RecBole expects its DistributedSampler otherwise
    return loaders


def skip_empty_batches(config, loader_class: type) -> type:
    """Evaluation loader class that leaves out the batches of which this process has no row."""
    if config["single_spec"]:
        return loader_class
    return type(f"Sharded{loader_class.__name__}", (_SkipsEmpty, loader_class), {})


class _Shard:
    """Every n-th row of a batch.

    A batch can have fewer rows than there are processes. In training, a process without a row takes
    part in the step with a row of weight 0; in evaluation it skips the batch, unless the processes
    score it together (``shard_items``): then it takes part with a row without a target.
    """

    def __init__(self, collate: Callable, trains: bool, scores_together: bool):
        self._collate, self._trains, self._scores_together = collate, trains, scores_together
        self._rank, self._world = dist.get_rank(), dist.get_world_size()

    def __call__(self, index):
        own = index[self._rank :: self._world]
        if len(own) == 0:
            if not (self._trains or self._scores_together):
                return None
            batch = self._collate(index[:1])
            return batch if self._trains else (*batch[:2], *(part[:0] for part in batch[2:]))
        return self._collate(own)


class _SkipsEmpty:
    def __iter__(self):
        batches = super().__iter__()
        return (batch for batch in batches if batch is not None)
