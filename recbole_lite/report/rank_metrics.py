"""Top-k metrics of single users from the rank of their one test item."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_GAINS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "recall": lambda ranks, k: np.ones(len(ranks)),
    "hit": lambda ranks, k: np.ones(len(ranks)),
    "precision": lambda ranks, k: np.full(len(ranks), 1 / k),
    "ndcg": lambda ranks, k: 1 / np.log2(ranks + 1),
    "mrr": lambda ranks, k: 1 / ranks,
    "map": lambda ranks, k: 1 / ranks,
}


def is_of_ranks(metric: str) -> bool:
    """Whether :func:`metric_values` knows a metric (``recall@10``)."""
    name, _, k = metric.partition("@")
    return name in _GAINS and k.isdigit() and int(k) > 0


def metric_values(metric: str, ranks: np.ndarray) -> np.ndarray:
    """Value of a metric for each user.

    Parameters
    ----------
    metric : str
        ``recall@k``, ``hit@k``, ``precision@k``, ``ndcg@k``, ``mrr@k`` or ``map@k``.
    ranks : numpy.ndarray
        ``[users]``, from 1; 0: the item is beyond the ranks that are known.
    """
    name, _, k = metric.partition("@")
    inside = (ranks > 0) & (ranks <= int(k))
    return np.where(inside, _GAINS[name](np.maximum(ranks, 1), int(k)), 0.0)
