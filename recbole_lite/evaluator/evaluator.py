"""RecBole's evaluator and collector without the parts that fail on today's NumPy and torch."""

from __future__ import annotations

from collections import OrderedDict
from copy import copy
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from recbole.evaluator import Collector, DataStruct, Evaluator, TopkMetric
from recbole.evaluator.metrics import (
    MAP,
    MRR,
    NDCG,
    AveragePopularity,
    GiniIndex,
    ItemCoverage,
    ShannonEntropy,
    TailPercentage,
)

from recbole_lite.trainer import process_group


class LiteMRR(MRR):
    """Mean reciprocal rank."""

    def metric_info(self, pos_index):
        """Reciprocal rank of the first hit within the first 1..K; ``[users, K]`` -> same shape."""
        first = pos_index.argmax(axis=1)[:, None]
        ranks = np.arange(pos_index.shape[1])
        reached = pos_index.any(axis=1)[:, None] & (ranks >= first)
        return np.where(reached, 1.0 / (first + 1), 0.0)


class LiteNDCG(NDCG):
    """Normalised discounted cumulative gain."""

    def metric_info(self, pos_index, pos_len):
        """DCG over the ideal DCG at 1..K.

        Parameters
        ----------
        pos_index : numpy.ndarray
            ``[users, K]``, whether the item at a rank is relevant.
        pos_len : numpy.ndarray
            ``[users]``, number of relevant items.
        """
        gains = 1.0 / np.log2(np.arange(2, pos_index.shape[1] + 2))
        dcg = np.cumsum(pos_index * gains, axis=1)
        ideal_hits = np.arange(pos_index.shape[1]) < pos_len.reshape(-1, 1)
        return dcg / np.cumsum(ideal_hits * gains, axis=1)


class LiteMAP(MAP):
    """Mean average precision, normalised by min(relevant items, K)."""

    def metric_info(self, pos_index, pos_len):
        """Average precision at 1..K; shapes as in :class:`LiteNDCG`."""
        ranks = np.arange(1, pos_index.shape[1] + 1)
        precision = np.cumsum(pos_index, axis=1) / ranks
        return np.cumsum(precision * pos_index, axis=1) / np.minimum(ranks, pos_len.reshape(-1, 1))


# Metrics over the lists themselves; id 0 (padding) stands where a list has ended (LiteCollector).


class LiteItemCoverage(ItemCoverage):
    """Share of the items that are recommended to anyone."""

    def get_coverage(self, item_matrix, num_items):
        """Of ``[users, K]`` item ids."""
        return super().get_coverage(_recommended(item_matrix), num_items)


class LiteShannonEntropy(ShannonEntropy):
    """Entropy of the distribution of recommended items."""

    def get_entropy(self, item_matrix):
        """Of ``[users, K]`` item ids; 0 where nothing is recommended."""
        items = _recommended(item_matrix)
        return super().get_entropy(items) if items.size else 0.0


class LiteGiniIndex(GiniIndex):
    """Inequality of the distribution of recommended items."""

    def get_gini(self, item_matrix, num_items):
        """Of ``[users, K]`` item ids; 0 where nothing is recommended."""
        items = _recommended(item_matrix)
        return super().get_gini(items, num_items) if items.size else 0.0


class LiteAveragePopularity(AveragePopularity):
    """Mean number of interactions of the items in a list."""

    def calculate_metric(self, dataobject):
        """The mean is over the items that are in the list."""
        items, counts = self.used_info(dataobject)
        values = _mean_of_lists(self.get_pop(items, counts), items)
        return self.topk_result("averagepopularity", values)


class LiteTailPercentage(TailPercentage):
    """Share of rare items in a list."""

    def calculate_metric(self, dataobject):
        """The share is of the items that are in the list."""
        items, counts = self.used_info(dataobject)
        values = _mean_of_lists(self.get_tail(items, counts), items)
        return self.topk_result("tailpercentage", values)


def _recommended(item_matrix: np.ndarray) -> np.ndarray:
    return item_matrix[item_matrix > 0][None]  # [1, n]


def _mean_of_lists(values: np.ndarray, items: np.ndarray) -> np.ndarray:
    return values.cumsum(axis=1) / np.maximum((items > 0).cumsum(axis=1), 1)


class LiteEvaluator(Evaluator):
    """RecBole's evaluator; MRR, NDCG and MAP read ``np.float``, gone from NumPy 1.24 on.

    Attributes
    ----------
    ranked : torch.Tensor or None
        Of the last evaluation, RecBole's ``rec.topk``: ``[users, K + 1]``, whether the item at
        ranks 1 ... K is relevant, then the number of relevant items. None before an evaluation,
        and where no metric ranks.
    """

    replacements: ClassVar = {
        "mrr": LiteMRR,
        "ndcg": LiteNDCG,
        "map": LiteMAP,
        "itemcoverage": LiteItemCoverage,
        "shannonentropy": LiteShannonEntropy,
        "giniindex": LiteGiniIndex,
        "averagepopularity": LiteAveragePopularity,
        "tailpercentage": LiteTailPercentage,
    }

    def __init__(self, config):
        super().__init__(config)
        self.ranked: torch.Tensor | None = None
        for name in self.metrics:
            if name in self.replacements:
                self.metric_class[name] = self.replacements[name](config)

    def evaluate(self, dataobject):
        """Compute all metrics; what they rank by is kept for :meth:`per_user`."""
        self.ranked = dataobject.get("rec.topk") if "rec.topk" in dataobject else None
        found = super().evaluate(dataobject)
        # Some of RecBole's metrics give NumPy's numbers, which JSON and others do not take.
        return OrderedDict((name, float(value)) for name, value in found.items())

    def per_user(self, ranked: torch.Tensor | None) -> dict[str, np.ndarray]:
        """Values of the top-k metrics before they are averaged.

        Parameters
        ----------
        ranked : torch.Tensor or None
            As :attr:`ranked`.

        Returns
        -------
        dict of str to numpy.ndarray
            RecBole's names (``recall@10``) -> ``[users]``, in the order of the loader that was
            evaluated; metrics of the whole list (``ItemCoverage`` ...) have no such values.
        """
        if ranked is None:
            return {}
        struct = DataStruct()
        struct.set("rec.topk", ranked)
        values = {}
        for metric in self.metric_class.values():
            if isinstance(metric, TopkMetric):
                # Each metric hands its [users, K] to topk_result, which takes the mean; on this
                # copy it does not, so that these are the very values of RecBole's mean.
                unaveraged = copy(metric)
                unaveraged.topk_result = partial(_columns, metric.topk)
                values.update(unaveraged.calculate_metric(struct))
        return values


def _columns(topk, name: str, value: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{name}@{k}": value[:, k - 1].astype(np.float64) for k in topk}


def first_ranks(ranked: torch.Tensor) -> np.ndarray:
    """Rank of each user's first relevant item, ``[users]``, from 1; 0: not among the first K.

    With one relevant item per user (leave-one-out) this says all that `ranked` does.
    """
    hits = ranked[:, :-1].bool().numpy()
    return np.where(hits.any(axis=1), hits.argmax(axis=1) + 1, 0)


def ranked_by(ranks: np.ndarray, k: int) -> torch.Tensor:
    """Inverse of :func:`first_ranks` for one relevant item per user: ``[users, k + 1]``."""
    ranks = np.asarray(ranks)
    hits = ranks[:, None] == np.arange(1, k + 1)
    return torch.from_numpy(np.column_stack([hits, np.ones(len(ranks), bool)])).int()


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
            process_group.gather_collected(collected)
        return collected
