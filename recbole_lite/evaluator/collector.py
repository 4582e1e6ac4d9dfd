"""RecBole's collector of what the metrics need: on today's torch, in the order of the loader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from recbole.evaluator import Collector

from recbole_lite.utils.best_scores import maxima

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
    check : callable or None
        ``(largest score of each row [B], batch)``, called before a batch is ranked.
    """

    def __init__(self, config):
        super().__init__(config)
        self._needs, self.register = self.register, _WithoutLists(self.register)
        self.loader = None
        self.check: Callable | None = None
        self._parts: dict[str, list[torch.Tensor]] = {}  # of batches; RecBole joins at each one

    def eval_batch_collect(self, scores_tensor, interaction, positive_u, positive_i):
        """Collect a batch; items of score -inf are not recommended and never hits.

        RecBole makes a matrix of the scores' shape for the right items. Where fewer than K items
        have a score (beam search), it fills the list with items of score -inf, in the order of
        their ids, and counts the right one among them.
        """
        super().eval_batch_collect(scores_tensor, interaction, positive_u, positive_i)
        if scores_tensor.dim() == 1:  # values, not a ranking
            return
        largest = maxima(scores_tensor)
        if self.check is not None:
            self.check(largest.amax(1), interaction)
        wants_hits, wants_items = (self._needs.need(f"rec.{key}") for key in ("topk", "items"))
        if not (wants_hits or wants_items):
            return
        (n, n_items), device = scores_tensor.shape, scores_tensor.device
        users, targets = positive_u.to(device), positive_i.to(device)
        rows = torch.arange(n, device=device)
        if device.type == "cpu" and not wants_items:  # a GPU would wait to know how many rows
            rows = rows[_may_hit(scores_tensor, largest, users, targets, max(self.topk))]
        ranked = scores_tensor if len(rows) == n else scores_tensor[rows]
        values, items = torch.topk(ranked, max(self.topk), dim=-1)  # [R, K]
        items = items.masked_fill_(torch.isneginf(values), 0)  # padding: the list has ended
        if wants_items:
            self._collect("rec.items", items)
        if wants_hits:
            positive = users * n_items + targets
            hits = torch.zeros(n, items.shape[1] + 1, dtype=torch.long, device=device)
            hits[:, -1] = torch.bincount(positive.unique() // n_items, minlength=n)
            hits[rows, :-1] = torch.isin(rows[:, None] * n_items + items, positive).long()
            self._collect("rec.topk", hits)

    def _collect(self, name: str, values: torch.Tensor):
        self._parts.setdefault(name, []).append(values)

    def get_data_struct(self):
        """Return the collected values; RecBole would call ``.cpu()`` on plain numbers as well."""
        for name, parts in self._parts.items():
            self.data_struct.set(name, torch.cat(parts))
        self._parts = {}
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


def _may_hit(scores, largest, users, targets, k: int) -> torch.Tensor:
    """Rows ``[B]`` in which a right item can be among the best `k`; on a CPU few are ranked.

    It cannot where `k` groups have a score above those of all right items, whatever order
    ``torch.topk`` gives equal scores.
    """
    best = scores.new_full((len(scores),), -torch.inf)
    best.scatter_reduce_(0, users, scores[users, targets], "amax")
    return (largest > best[:, None]).sum(1) < k


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
