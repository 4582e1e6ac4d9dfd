"""Stable sorting and numbering of many rows."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch

_AT_ONCE = 2**24  # rows; a sort takes several times their memory


def smallest_type(most: int) -> type[np.signedinteger]:
    """Type of ids up to `most`: int32 where they fit."""
    return np.int32 if most < 2**31 else np.int64


def counts_of(values: np.ndarray, n: int) -> np.ndarray:
    """Counts of the numbers 0 .. n - 1 in an array of integers, ``[n]``.

    ``np.bincount`` copies integers that are shorter than its own, here a part at a time.
    """
    counts = np.zeros(n, np.int64)
    for begin in range(0, len(values), _AT_ONCE):
        counts += np.bincount(values[begin : begin + _AT_ONCE], minlength=n)
    return counts


def stable_order(*keys: np.ndarray) -> np.ndarray:
    """Order of rows by the first key, then by the second, and so on; equal rows keep theirs.

    ``np.lexsort(keys[::-1])``, several times as fast: torch sorts integers by radix, in threads.

    Keys are int or float, ``[n]`` each, without NaN; the order is int64, ``[n]``.
    """
    first = keys[0]
    if len(first) > _AT_ONCE and first.dtype.kind == "i" and first.min() >= 0:
        n = int(first.max()) + 1
        if n <= len(first):
            return _order_in_parts(keys, n)
    return _order(keys)


def _order_in_parts(keys: tuple[np.ndarray, ...], n: int) -> np.ndarray:
    """Order of rows, sorted for a range of the first key (0 .. n - 1) at a time."""
    first, order, done = keys[0], np.empty(len(keys[0]), np.int64), 0
    before = np.cumsum(counts_of(first, n))
    cuts = np.searchsorted(before, np.arange(_AT_ONCE, len(first), _AT_ONCE), side="right")
    for low, high in pairwise(np.unique([0, *cuts.tolist(), n])):
        rows = np.flatnonzero((first >= low) & (first < high))
        order[done : done + len(rows)] = rows[_order(tuple(key[rows] for key in keys))]
        done += len(rows)
    return order


def _order(keys: tuple[np.ndarray, ...]) -> np.ndarray:
    order = None
    for key in reversed(_packed(keys)):
        values = torch.from_numpy(np.ascontiguousarray(key))
        step = torch.argsort(values if order is None else values[order], stable=True)
        order = step if order is None else order[step]
    return order.numpy()


def _packed(keys: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    """One integer in place of several, where 63 bits are enough: one sort in place of several."""
    if not keys[0].size or any(key.dtype.kind != "i" for key in keys):
        return keys
    lows = [int(key.min()) for key in keys]
    spans = [int(key.max()) - low + 1 for key, low in zip(keys, lows, strict=True)]
    if math.prod(spans) > 2**63:
        return keys
    packed = np.subtract(keys[0], lows[0], dtype=np.int64)
    for key, low, span in zip(keys[1:], lows[1:], spans[1:], strict=True):
        packed *= span
        packed += key
        packed -= low
    return (packed.astype(np.int32) if math.prod(spans) <= 2**31 else packed,)


def by_appearance(codes: np.ndarray, n_codes: int) -> np.ndarray:
    """Codes that occur, in order of first appearance; -1 is none.

    The uniques of ``pandas.factorize(codes)``, without a hash table; `codes`, ``[n]``, are in
    -1 .. n_codes - 1.
    """
    if len(codes) and codes[0] <= 0:
        most = np.maximum.accumulate(codes)
        if (most[1:] - 1 <= most[:-1]).all():  # numbered by first appearance already
            return np.arange(most[-1] + 1)
    first = np.full(n_codes + 1, len(codes))
    first[codes[::-1]] = np.arange(len(codes) - 1, -1, -1)  # the last assignment stays
    first[-1] = len(codes)
    return np.argsort(first)[: np.count_nonzero(first < len(codes))]
