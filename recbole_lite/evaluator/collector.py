"""RecBole's collector of what the metrics need: on today's torch, in the order of the loader."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from recbole.evaluator import Collector

_COLLECTED = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")


class _WithoutLists:
    """RecBole's register of what the metrics need, less the best items of each row."""

    def __init__(self, register):
        self._register = register

    def need(self, key: str) -> bool:
        return key not in ("rec.topk", "rec.items") and self._register.need(key)


class LiteCollector(Collector):
    """RecBole's collector for metrics that need counts, too (ItemCoverage, GiniIndex ...).

    Attributes
    ----------
    loader : DataLoader or None
        Its order is that of the collected rows.
    """

    def __init__(self, config):
        super().__init__(config)
        self._needs, self.register = self.register, _WithoutLists(self.register)
        self.loader = None

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Collect a batch; items of score -inf are not recommended and never hits.

        RecBole makes a matrix of the scores' shape for the right items. Where fewer than K items
        have a score (beam search), it fills the list with items of score -inf, in the order of
        their ids, and counts the right one among them.
        """
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        wants_hits, wants_items = (self._needs.need(f"rec.{key}") for key in ("topk", "items"))
        if not (wants_hits or wants_items):
            return
        values, items = torch.topk(scores_tensor, max(self.topk), dim=-1)  # [B, K]
        items = items.masked_fill_(torch.isneginf(values), 0)  # padding: the list has ended
        if wants_items:
            self.data_struct.update_tensor("rec.items", items)
        if wants_hits:
            n, n_items = scores_tensor.shape
            rows = torch.arange(n, device=items.device)[:, None]
            positive = positive_u.to(items.device) * n_items + positive_i.to(items.device)
            hits = torch.isin(rows * n_items + items, positive)
            count = torch.bincount(positive.unique() // n_items, minlength=n)
            ranked = torch.cat([hits.long(), count[:, None]], dim=1)  # [B, K + 1]
            self.data_struct.update_tensor("rec.topk", ranked)

    def get_data_struct(self):
        """Return the collected values; RecBole would call ``.cpu()`` on plain numbers as well."""
        plain = {
            key: value
            for key, value in self.data_struct._data_dict.items()
            if not isinstance(value, torch.Tensor)
        }
        for key in plain:
            del self.data_struct._data_dict[key]
        collected = super().get_data_struct()
        for struct in (self.data_struct, collected):
            struct._data_dict.update(plain)
        if not self.config["single_spec"]:
            _gather_collected(collected)
        for name in _COLLECTED:
            if name in collected:
                collected.set(name, _in_order(collected.get(name), self.loader))
        return collected


def _gather_collected(struct) -> None:
    """Concatenate the values that the processes have collected, in place, in all of them."""
    own = {name: struct.get(name) for name in _COLLECTED if name in struct}
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    for name in dict.fromkeys(name for part in parts for name in part):
        struct.set(name, torch.cat([part[name] for part in parts if name in part]))


def _in_order(joined: torch.Tensor, loader) -> torch.Tensor:
    """Rows of all batches, and of all processes one after another, in the order of the loader."""
    n, world = len(joined), dist.get_world_size() if dist.is_initialized() else 1
    batches = getattr(loader, "batches", None)
    if batches is None:
        if world == 1 or n != len(loader.sampler):  # not one row for each of the loader's
            return joined
        batches = np.split(np.arange(n), range(loader.batch_size, n, loader.batch_size))
    order = [batch[rank::world] for rank in range(world) for batch in batches]
    return joined[np.argsort(np.concatenate(order))]
