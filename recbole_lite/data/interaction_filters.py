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
    """Which rows stay, ``[n]`` bool, without users and items that have too few or too many rows.

    Each round drops the rows of all of them at once, until none is left to drop.

    Parameters
    ----------
    columns : sequence of ndarray of int
        Codes from 0 of users, items, ..., shape ``[n]`` each.
    allowed : sequence of callable
        One for each column: numbers of rows -> which are allowed.
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


def drop_repeated_pairs(
    frame: pd.DataFrame, user_field: str, item_field: str, time_field: str, keep: str = "first"
) -> pd.DataFrame:
    """Keep the ``first`` or ``last`` row in time of each user and item.

    Of equal times, and without the column `time_field`, the order of the rows counts. The rows that
    stay keep their order and index.
    """
    pairs = frame[[user_field, item_field]]
    if time_field in frame:
        pairs = pairs.iloc[np.argsort(frame[time_field].to_numpy(), kind="stable")]
    return frame[~pairs.duplicated(keep=keep).sort_index()]


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
        Rows that a user and an item must keep (k-core); 0 or 1 asks for nothing.
    min_rating : float, optional
        Rows with a lower rating are dropped.
    keep_first : bool
        Of several rows of one user and item only the first in time stays.

    Returns
    -------
    DataFrame
        With a new index from 0, and without unused categories.
    """
    if keep_first:
        frame = drop_repeated_pairs(frame, "user_id", "item_id", "timestamp")
    if min_rating is not None:
        frame = frame[(frame["rating"] >= min_rating).to_numpy()]
    if user_k > 1 or item_k > 1:
        columns = [codes(frame["user_id"]), codes(frame["item_id"])]
        enough = [lambda counts: counts >= user_k, lambda counts: counts >= item_k]
        frame = frame[filter_by_counts(columns, enough)]
    frame = frame.reset_index(drop=True)
    for column in frame.select_dtypes("category").columns:
        frame[column] = frame[column].cat.remove_unused_categories()
    return frame
