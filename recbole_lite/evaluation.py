"""RecBole's evaluator and collector without the parts that fail on today's NumPy and torch."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from recbole.evaluator import Collector, Evaluator
from recbole.evaluator.metrics import MAP, MRR, NDCG


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


class LiteEvaluator(Evaluator):
    """RecBole's evaluator; MRR, NDCG and MAP read ``np.float``, gone from NumPy 1.24 on."""

    replacements: ClassVar = {"mrr": LiteMRR, "ndcg": LiteNDCG, "map": LiteMAP}

    def __init__(self, config):
        super().__init__(config)
        for name in self.metrics:
            if name in self.replacements:
                self.metric_class[name] = self.replacements[name](config)


class LiteCollector(Collector):
    """RecBole's collector for metrics that need counts, too (ItemCoverage, GiniIndex ...)."""

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
        return collected
