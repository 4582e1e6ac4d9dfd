"""Stable sorting of many rows."""

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
