"""Targets of validation and test that the user has had before."""

from __future__ import annotations

from collections.abc import Sequence
from logging import getLogger

import numpy as np
from recbole.utils import ModelType

from recbole_lite.data.windows import Windows

_WINDOWS = 8192  # whose histories are in memory at a time


def repeated_targets(windows: Windows) -> np.ndarray:
    """Whether the user has had each window's target before, ``[n]`` bool."""
    targets = windows[windows.store.item_field].numpy()
    repeated = np.zeros(len(windows), dtype=bool)
    order = np.argsort(windows.rows)  # neighbours in memory, one after another
    for begin in range(0, len(windows), _WINDOWS):
        chosen = order[begin : begin + _WINDOWS]
        owner, seen = (part.numpy() for part in windows.history(chosen))
        owner = chosen[owner]
        repeated[owner[seen == targets[owner]]] = True
    return repeated


def repeated_rows(part, earlier: Sequence) -> np.ndarray:
    """Whether each row of `part`, a data set, repeats a user and item of `earlier` ones.

    A part of windows knows itself what came before its targets.

    Returns
    -------
    numpy.ndarray
        ``[n]`` bool.
    """
    if isinstance(part.inter_feat, Windows):
        return repeated_targets(part.inter_feat)
    before = [_pairs(one) for one in earlier]
    return np.isin(_pairs(part), np.concatenate(before or [[]]))


def _pairs(part) -> np.ndarray:
    users, items = (part.inter_feat[f].numpy() for f in (part.uid_field, part.iid_field))
    return users * part.item_num + items


def warn_of_repeats(config, parts: Sequence) -> None:
    """State the share of repeated targets in validation and test, which the mask makes misses.

    Parameters
    ----------
    config : LiteConfig
    parts : sequence of Dataset
        Training, validation and test.
    """
    if not config["eval_exclude_history"]:
        return
    found = []
    for number, phase in ((1, "validation"), (2, "test")):
        part = parts[number]
        # RecBole's own loader of a sequential model's rows masks nothing.
        if config["MODEL_TYPE"] == ModelType.SEQUENTIAL and not isinstance(
            part.inter_feat, Windows
        ):
            continue
        count = int(repeated_rows(part, parts[:number]).sum())
        if count:
            found.append(
                f"{count:,} of {len(part):,} targets of the {phase} part ({count / len(part):.1%})"
            )
    if found:
        getLogger().warning(
            f"{config['dataset']}: {' and '.join(found)} are items that the user has had before; "
            "eval_exclude_history: True excludes the history from the ranking, so each of them is "
            "a miss. If users come back to items, set repeatable: True, which ranks all items"
        )
