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
    """Give this process its share of every batch (training, validation, test).

    A model that counts rather than learns (Pop) is trained on whole batches in every process: what
    it counts has no gradient that would be added up.
    """
    if config["single_spec"]:
        return loaders
    counts = config["MODEL_TYPE"] == ModelType.TRADITIONAL
    for loader, trains in zip(loaders, (True, False, False), strict=True):
        if not (trains and counts):
            loader.collate_fn = _Shard(loader.collate_fn, keeps_step=trains)
        loader.shuffle = False  # RecBole would look for its DistributedSampler
    return loaders


def skip_empty_batches(config, loader_class: type) -> type:
    """Evaluation loader class that leaves out the batches of which this process has no row."""
    if config["single_spec"]:
        return loader_class
    return type(f"Sharded{loader_class.__name__}", (_SkipsEmpty, loader_class), {})


class _Shard:
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


class _SkipsEmpty:
    def __iter__(self):
        batches = super().__iter__()
        return (batch for batch in batches if batch is not None)
