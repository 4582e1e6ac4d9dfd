"""Statistics of a data set: users, items, interactions, lengths of histories."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Stats:
    """Size of an interaction table and the length of its users' histories."""

    users: int  # different ones that occur in the table, as of items
    items: int
    interactions: int
    mean_history: float  # interactions per user
    median_history: float
    min_history: int
    max_history: int

    @property
    def density(self) -> float:
        """Share of the user-item pairs that are filled, between 0 and 1."""
        cells = self.users * self.items
        return self.interactions / cells if cells else 0.0

    @property
    def sparsity(self) -> float:
        """Share of the user-item pairs that are empty, between 0 and 1."""
        return 1.0 - self.density


def codes(column: pd.Series) -> np.ndarray:
    """Integer codes ``[n]`` of a column, equal for equal values; a categorical column is fast."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy().astype(np.int64, copy=False)
    return pd.factorize(column)[0].astype(np.int64, copy=False)


def measure(frame: pd.DataFrame, user: str = "user_id", item: str = "item_id") -> Stats:
    """Statistics of a frame with one row per interaction; zeros for an empty one.

    `user` and `item` are the columns of its users and items.
    """
    if frame.empty:
        return Stats(0, 0, 0, 0.0, 0.0, 0, 0)
    lengths = np.bincount(codes(frame[user]))
    lengths = lengths[lengths > 0]
    items = np.bincount(codes(frame[item]))
    return Stats(
        users=int(lengths.size),
        items=int((items > 0).sum()),
        interactions=len(frame),
        mean_history=float(lengths.mean()),
        median_history=float(np.median(lengths)),
        min_history=int(lengths.min()),
        max_history=int(lengths.max()),
    )


def differences(expected: dict[str, int], stats: Stats) -> list[str]:
    """One sentence per count of `expected` (`Expected.counts`) that differs from `stats`."""
    found = asdict(stats)
    return [
        f"{found[key]:,} {key}, expected {count:,} ({found[key] - count:+,})"
        for key, count in expected.items()
        if found[key] != count
    ]
