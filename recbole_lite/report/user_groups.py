"""Recall per group of users: by how common the test item is, by how long the history is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from recbole_lite.report.rank_metrics import metric_values

GROUPS = 4


class Group(NamedTuple):
    """Some of the test users."""

    label: str
    users: list[str]


def by_popularity(users: Mapping[str, Mapping[str, Any]], quartiles: Sequence) -> list[Group]:
    """Users (raw id -> ``item_quartile``) by the quartile of their test item.

    `quartiles` have the ``least`` and ``most`` training interactions of the items of each.
    """
    groups = []
    for number, about in enumerate(quartiles, 1):
        members = [user for user, row in users.items() if row["item_quartile"] == number]
        groups.append(Group(_range(about["least"], about["most"]), members))
    return groups


def by_history(users: Mapping[str, Mapping[str, Any]]) -> list[Group]:
    """Users (raw id -> ``history_length``) in four groups.

    They are as equal in size as users with equally long histories allow.
    """
    names = list(users)
    lengths = np.array([users[name]["history_length"] for name in names])
    cuts = np.unique(np.quantile(lengths, np.arange(1, GROUPS) / GROUPS))
    numbers = np.searchsorted(cuts, lengths, side="left")
    groups = []
    for number in np.unique(numbers):
        inside = np.flatnonzero(numbers == number)
        label = _range(int(lengths[inside].min()), int(lengths[inside].max()))
        groups.append(Group(label, [names[i] for i in inside]))
    return groups


def recall(
    users: Mapping[str, Mapping[str, Any]], groups: Sequence[Group], k: int
) -> list[tuple[float, float]]:
    """Recall@k of each group and its standard error over users; nan for an empty group.

    `users` map raw ids to ``rank`` (0: beyond the largest k).
    """
    found = []
    for group in groups:
        ranks = np.array([users[user]["rank"] for user in group.users])
        hits = metric_values(f"recall@{k}", ranks)
        n = len(hits)
        found.append((hits.mean(), hits.std() / np.sqrt(n)) if n else (np.nan, np.nan))
    return [(float(mean), float(error)) for mean, error in found]


def _range(least: int, most: int) -> str:
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
