"""Histories of internal ids as padded arrays, and the top items of scores, with NumPy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

# Rows of internal ids, oldest first; an array [B, L] is padded with 0 on the left or the right.
Histories = Sequence[Sequence[int]] | np.ndarray
Ranked = tuple[np.ndarray, np.ndarray]  # ids [B, K] and their scores, best first


def lengths(histories: Histories) -> np.ndarray:
    """Number of items of each history, ``[B]``."""
    if isinstance(histories, np.ndarray):
        return (histories != 0).sum(1)
    return np.fromiter(map(len, histories), np.int64, len(histories))


def pad(
    histories: Histories, rows: np.ndarray | None = None, max_length: int | None = None
) -> np.ndarray:
    """Pad histories with 0 to an array.

    Parameters
    ----------
    histories : sequence of sequence of int, or numpy.ndarray
    rows : numpy.ndarray, optional
        Rows to take; default: all.
    max_length : int, optional
        Number of last items to keep of lists; arrays are not cut.

    Returns
    -------
    numpy.ndarray
        ``[b, L]`` int64; lists are padded on the right, arrays stay as they are.
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


def top_k(
    scores: np.ndarray,
    k: int,
    exclude: Histories | None = None,
    candidates: np.ndarray | None = None,
) -> Ranked:
    """Items with the highest scores of each row.

    Parameters
    ----------
    scores : numpy.ndarray
        ``[B, n_items]``, -inf for padding (id 0); changed in place.
    k, exclude, candidates
        See :meth:`recbole_lite.inference.onnx_runtime.OnnxRuntime.rank`, also for the result.
    """
    if exclude is not None:
        np.put_along_axis(scores, pad(exclude), -np.inf, 1)  # padding has -inf already
    if candidates is not None:
        scores = scores[:, candidates]
    k = min(k, scores.shape[1] - (candidates is None))
    places = np.argpartition(scores, -k, axis=1)[:, -k:]
    places.sort(axis=1)  # items of equal score are ordered by id
    values = np.take_along_axis(scores, places, 1)
    order = np.argsort(-values, axis=1, kind="stable")
    places, values = (np.take_along_axis(part, order, 1) for part in (places, values))
    ids = places if candidates is None else candidates[places]
    return np.where(np.isneginf(values), 0, ids), values


def filled(ids: np.ndarray, scores: np.ndarray) -> Iterator[tuple[list[int], list[float]]]:
    """Rows of :func:`top_k` as lists, without the unfilled places (id 0) at their ends."""
    counts = (ids != 0).sum(1).tolist()
    for items, values, n in zip(ids, scores, counts, strict=True):
        yield items[:n].tolist(), values[:n].tolist()
