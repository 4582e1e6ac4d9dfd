"""RecBole's collector of what the metrics need, on today's torch and over several processes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from recbole.evaluator import Collector

_COLLECTED = ("rec.topk", "rec.meanrank", "rec.score", "rec.items", "data.label")


class LiteCollector(Collector):
    """RecBole's collector for metrics that need counts, too (ItemCoverage, GiniIndex ...)."""

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Collect a batch; what is scored -inf is not recommended, and so never a hit.

        Where fewer than K items have a score (beam search), RecBole fills the list with items
        of score -inf, in the order of their ids, and counts the right one among them.
        """
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        n = len(scores_tensor)
        if self.register.need("rec.items"):
            items = self.data_struct.get("rec.items")[-n:]  # of all batches so far, the last
            values = scores_tensor.gather(1, items.to(scores_tensor.device))
            items[torch.isneginf(values).to(items.device)] = 0  # padding: the list has ended
        if not self.register.need("rec.topk"):
            return
        if torch.isneginf(scores_tensor[positive_u, positive_i]).any():
            values = torch.topk(scores_tensor, max(self.topk), dim=-1).values
            ranked = self.data_struct.get("rec.topk")
            ranked[-n:, :-1] *= ~torch.isneginf(values).to(ranked.device)

    def get_data_struct(self):
        """Hand out what was collected; RecBole calls ``.cpu()`` on plain numbers as well."""
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
        return collected


def _gather_collected(struct) -> None:
    """Join what the processes have collected in an evaluation, in place, in all of them."""
    own = {name: struct.get(name) for name in _COLLECTED if name in struct}
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    for name in dict.fromkeys(name for part in parts for name in part):
        struct.set(name, torch.cat([part[name] for part in parts if name in part]))


def restore_order(joined: torch.Tensor | None, loader) -> torch.Tensor | None:
    """Rows that :class:`LiteCollector` has joined, ``[n, ...]``, in the order of the loader."""
    n, size, world = len(loader.sampler), loader.batch_size, dist.get_world_size()
    if joined is None or len(joined) != n:  # not one row for each of the loader's
        return joined
    batches = [np.arange(start, min(start + size, n)) for start in range(0, n, size)]
    order = [batch[rank::world] for rank in range(world) for batch in batches]
    return joined[np.argsort(np.concatenate(order))]
