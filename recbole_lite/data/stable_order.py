"""Stable sorting and numbering of many rows."""

from __future__ import annotations

import numpy as np
import torch


def stable_order(*keys: np.ndarray) -> np.ndarray:
    """Order of rows by the first key, then by the second, and so on; equal rows keep theirs.

    ``np.lexsort(keys[::-1])``, several times as fast: torch sorts integers by radix, in threads.

    Parameters
    ----------
    *keys : numpy.ndarray of int or float
        Shape ``[n]`` each, without NaN.

    Returns
    -------
    numpy.ndarray of int64
        Shape ``[n]``.
    """
    order = None
    for key in reversed(keys):
        values = torch.from_numpy(np.ascontiguousarray(key))
        step = torch.argsort(values if order is None else values[order], stable=True)
        order = step if order is None else order[step]
    return order.numpy()


def by_appearance(codes: np.ndarray, n_codes: int) -> np.ndarray:
    """Codes that occur, in order of first appearance; -1 is none.

    The uniques of ``pandas.factorize(codes)``, without a hash table.

    Parameters
    ----------
    codes : numpy.ndarray of int
        Shape ``[n]``, in -1 .. n_codes - 1.
    n_codes : int
    """
    first = np.full(n_codes + 1, len(codes))
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # the last assignment stays
    first[-1] = len(codes)
    return np.argsort(first)[: np.count_nonzero(first < len(codes))]
