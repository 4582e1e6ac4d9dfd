"""Filters on interactions: duplicates, low ratings, numbers of interactions (k-core).

They run in RecBole's order: duplicates, then ratings, then counts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from recbole_lite.data.sources.dataset_stats import codes


def filter_by_counts(
    columns: Sequence[np.ndarray], allowed: Sequence[Callable[[np.ndarray], np.ndarray]]
) -> np.ndarray:
    """Rows that stay when users and items with too few or too many rows are dropped.

    Each round drops the rows of all of them at once, until none is left to drop.

    Parameters
    ----------
    columns : sequence of ndarray of int
        Codes from 0 of users, items, ..., shape ``[n]`` each.
    allowed : sequence of callable
        One for each column: numbers of rows -> which are allowed.

    Returns
    -------
    ndarray of bool
        Which rows stay, shape ``[n]``.
    """
    kept = np.arange(len(columns[0]))
    while kept.size:
        fits = np.ones(kept.size, dtype=bool)
        for codes_of_rows, allow in zip(columns, allowed, strict=True):
            left = codes_of_rows[kept]
            fits &= allow(np.bincount(left))[left]
        if fits.all():
            break
        kept = kept[fits]
    mask = np.zeros(len(columns[0]), dtype=bool)
    mask[kept] = True
    return mask


def k_core(users: np.ndarray, items: np.ndarray, user_k: int, item_k: int) -> np.ndarray:
    """Rows of the largest set where each user and item has enough rows.

    Rows of users or items with too few rows are dropped until none is left to drop.
    The result does not depend on the order of dropping.

    Parameters
    ----------
    users, items : ndarray of int
        Codes from 0, shape ``[n]``.
    user_k, item_k : int
        Rows that a user and an item must keep; 0 or 1 asks for nothing.

    Returns
    -------
    ndarray of bool
        Which rows stay, shape ``[n]``.
    """
    return filter_by_counts((users, items), (lambda n: n >= user_k, lambda n: n >= item_k))


def first_of_each(users: np.ndarray, items: np.ndarray, times: np.ndarray | None) -> np.ndarray:
    """Rows that are the first in time of their user and item.

    Parameters
    ----------
    users, items : ndarray of int
        Codes from 0, shape ``[n]``.
    times : ndarray or None
        Of equal times, and without times, the first row counts.

    Returns
    -------
    ndarray of bool
        Which rows stay, shape ``[n]``.
    """
    if not users.size:
        return np.ones(0, dtype=bool)
    pair = users * (items.max() + 1) + items
    # lexsort is stable, so rows of one pair and one time keep their order
    order = np.argsort(pair, kind="stable") if times is None else np.lexsort((times, pair))
    ordered = pair[order]
    starts = np.r_[True, ordered[1:] != ordered[:-1]]
    mask = np.zeros(users.size, dtype=bool)
    mask[order[starts]] = True
    return mask


def filter_interactions(
    frame: pd.DataFrame,
    user_k: int = 0,
    item_k: int = 0,
    min_rating: float | None = None,
    keep_first: bool = False,
) -> pd.DataFrame:
    """Drop rows; those that stay keep the order of the source.

    Parameters
    ----------
    frame : DataFrame
        Columns ``user_id`` and ``item_id``; ``rating`` where `min_rating` is given;
        ``timestamp`` settles which of two equal pairs is the first.
    user_k, item_k : int
        See `k_core`.
    min_rating : float, optional
        Rows with a lower rating go.
    keep_first : bool
        Of several rows of one user and item only the first in time stays.

    Returns
    -------
    DataFrame
        With a new index from 0, and without unused categories.
    """
    if keep_first:
        times = frame["timestamp"].to_numpy() if "timestamp" in frame else None
        frame = frame[first_of_each(codes(frame["user_id"]), codes(frame["item_id"]), times)]
    if min_rating is not None:
        frame = frame[(frame["rating"] >= min_rating).to_numpy()]
    if user_k > 1 or item_k > 1:
        frame = frame[k_core(codes(frame["user_id"]), codes(frame["item_id"]), user_k, item_k)]
    frame = frame.reset_index(drop=True)
    for column in frame.select_dtypes("category").columns:
        frame[column] = frame[column].cat.remove_unused_categories()
    return frame
