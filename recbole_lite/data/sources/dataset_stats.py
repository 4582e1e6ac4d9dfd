"""Statistics of a data set: users, items, interactions, lengths of histories."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Stats:
    """Size of an interaction table and the length of its users' histories.

    Parameters
    ----------
    users, items, interactions : int
        Distinct users and items that occur in the table, and its rows.
    mean_history, median_history : float
        Interactions per user.
    min_history, max_history : int
        The shortest and the longest history.
    """

    users: int
    items: int
    interactions: int
    mean_history: float
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
    """Integer code of each value of a column; equal values have equal codes.

    Parameters
    ----------
    column : Series
        Of any type; a categorical one costs nothing.

    Returns
    -------
    ndarray of int
        Shape ``[len(column)]``.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy().astype(np.int64, copy=False)
    return pd.factorize(column)[0].astype(np.int64, copy=False)


def measure(frame: pd.DataFrame, user: str = "user_id", item: str = "item_id") -> Stats:
    """Count users, items and interactions.

    Parameters
    ----------
    frame : DataFrame
        One row per interaction.
    user, item : str
        Columns of its users and items.

    Returns
    -------
    Stats
        Zeros for an empty table.
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
    """Compare counts.

    Parameters
    ----------
    expected : dict
        Count by name, as `Expected.counts` gives it.
    stats : Stats
        What was found.

    Returns
    -------
    list of str
        One sentence per count that differs.
    """
    found = asdict(stats)
    return [
        f"{found[key]:,} {key}, expected {count:,} ({found[key] - count:+,})"
        for key, count in expected.items()
        if found[key] != count
    ]
