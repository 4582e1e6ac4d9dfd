"""Diverse lists, and which items of a history a recommendation comes from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

POOL = 5  # items considered for each one that is recommended
_LEAST_POOL = 50
_ROWS = 64  # histories scored together


def pool_size(k: int, n_items: int) -> int:
    """Number of best items among which :func:`diverse` chooses k."""
    return min(n_items, max(POOL * k, _LEAST_POOL))


def diverse(scores: Sequence[float], vectors: np.ndarray, k: int, diversity: float) -> list[int]:
    """Places of k items by maximal marginal relevance (Carbonell and Goldstein 1998).

    Each step takes the item with the highest ``(1 - diversity) * relevance - diversity *
    similarity``: relevance is the score scaled to 0 ... 1 over the given items, similarity the
    highest cosine with an item that has been taken.

    Parameters
    ----------
    scores : sequence of float
        ``[N]``, highest first.
    vectors : numpy.ndarray
        ``[N, d]`` of length 1.
    """
    relevance = np.asarray(scores, np.float64)
    span = np.ptp(relevance) if len(relevance) else 0.0
    relevance = (relevance - relevance.min()) / span if span else np.zeros(len(relevance))
    taken: list[int] = []
    nearest = np.zeros(len(relevance))
    while len(taken) < min(k, len(relevance)):
        value = (1 - diversity) * relevance - diversity * nearest
        value[taken] = -np.inf
        best = int(value.argmax())
        similarity = vectors @ vectors[best]
        nearest = np.maximum(nearest, similarity) if taken else similarity
        taken.append(best)
    return taken


def leave_one_out(
    score: Callable[[list[list[int]]], np.ndarray], history: Sequence[int], items: Sequence[int]
) -> tuple[list[int], np.ndarray | None]:
    """How much each item of a history contributes to the scores of others.

    Parameters
    ----------
    score : callable
        Histories -> scores of all items ``[B, n_items]``.
    history : sequence of int
        What the model reads, no more.
    items : sequence of int
        Recommended items.

    Returns
    -------
    (list of int, numpy.ndarray [H, K] or None)
        Distinct items of the history, and by how much the logarithm of an item's softmax
        probability falls without one of them (all its occurrences); None for a single item.
    """
    distinct = list(dict.fromkeys(history))
    if len(distinct) == 1:
        return distinct, None
    rows = [list(history), *([i for i in history if i != one] for one in distinct)]
    found = [
        log_probabilities(score(rows[first : first + _ROWS]))[:, list(items)]
        for first in range(0, len(rows), _ROWS)
    ]
    values = np.concatenate(found)
    return distinct, values[:1] - values[1:]


def log_probabilities(scores: np.ndarray) -> np.ndarray:
    """Logarithm of the softmax of each row."""
    highest = scores.max(1, keepdims=True)
    return scores - highest - np.log(np.exp(scores - highest).sum(1, keepdims=True))


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
