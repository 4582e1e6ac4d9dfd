"""Top-k metrics from the rank of each user's one test item."""

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


def random_guess(config) -> dict[str, float]:
    """Expected top-k metrics of a random order of the candidates of the Top-N task.

    Every rank of the right one is as likely, so it is the mean over all ranks; of 100 candidates
    Hit@k is k / 100 and NDCG@k the sum of 1 / log2(1 + r) for r = 1 ... k, over 100.

    Reads ``topn_negatives``, ``metrics`` and ``topk``; the names are RecBole's (``hit@10``).
    """
    ranks = np.arange(1, config["topn_negatives"] + 2)
    names = [f"{metric.lower()}@{k}" for metric in config["metrics"] for k in config["topk"]]
    return {name: float(metric_values(name, ranks).mean()) for name in names if is_of_ranks(name)}
