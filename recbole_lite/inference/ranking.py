"""From histories of internal ids to padded arrays, from scores to the best items."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Rows of internal ids, the earliest first; an array [B, L] has 0 in front of or behind them.
Histories = Sequence[Sequence[int]] | np.ndarray
Ranked = tuple[np.ndarray, np.ndarray]  # ids [B, K] and their scores, best first


def lengths(histories: Histories) -> np.ndarray:
    """Number of items of each history, ``[B]``."""
    if isinstance(histories, np.ndarray):
        return (histories != 0).sum(1)
    return np.fromiter(map(len, histories), np.int64, len(histories))


def padded(
    histories: Histories, rows: np.ndarray | None = None, max_length: int | None = None
) -> np.ndarray:
    """Some of the histories as an array.

    Parameters
    ----------
    histories : sequence of sequence of int, or numpy.ndarray
    rows : numpy.ndarray, optional
        Which; default: all.
    max_length : int, optional
        Of lists the last so many items are kept; an array is left as it is.

    Returns
    -------
    numpy.ndarray
        ``[b, L]`` int64, 0 behind the items of lists.
    """
    if isinstance(histories, np.ndarray):
        return (histories if rows is None else histories[rows]).astype(np.int64, copy=False)
    chosen = histories if rows is None else [histories[row] for row in rows]
    cut = slice(None if max_length is None else -max_length, None)
    chosen = [row[cut] for row in chosen]
    items = np.zeros((len(chosen), max(map(len, chosen), default=0)), np.int64)
    for place, row in zip(items, chosen, strict=True):
        place[: len(row)] = row
    return items


def top(
    scores: np.ndarray,
    k: int,
    exclude: Histories | None = None,
    among: np.ndarray | None = None,
) -> Ranked:
    """Best items of each row.

    Parameters
    ----------
    scores : numpy.ndarray
        ``[B, n_items]``, -inf for padding (id 0); changed in place.
    k, exclude, among
        See :meth:`recbole_lite.inference.onnx_runtime.OnnxRuntime.rank`, also for what is returned.
    """
    if exclude is not None:
        np.put_along_axis(scores, padded(exclude), -np.inf, 1)  # padding has -inf already
    if among is not None:
        scores = scores[:, among]
    k = min(k, scores.shape[1] - (among is None))
    places = np.argpartition(scores, -k, axis=1)[:, -k:]
    places.sort(axis=1)  # of equal scores the lower id comes first
    values = np.take_along_axis(scores, places, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    places, values = (np.take_along_axis(part, order, 1) for part in (places, values))
    ids = places if among is None else among[places]
    return np.where(np.isneginf(values), 0, ids), values
