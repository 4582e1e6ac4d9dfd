"""RecBole's metrics without the parts that fail on today's NumPy, and for lists that end early."""

from __future__ import annotations

import numpy as np
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
