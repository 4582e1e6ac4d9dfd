"""The users of the test set: the test item of each, and what groups of users go by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from recbole_lite.data.windows import Windows


@dataclass(frozen=True)
class TestedUsers:
    """One test item per user; all arrays are ``[users]``, in the order of the test split.

    Attributes
    ----------
    users, items : list of str
        Raw ids of the users and of their test items.
    item_interactions : numpy.ndarray
        How often the test item occurs in training.
    item_quartiles : numpy.ndarray
        Quartile of the test item among all items, ordered by how often they occur in training:
        1 (rarest) ... 4.
    history_lengths : numpy.ndarray
        How many items the user had before the test item.
    quartiles : list of dict
        Of each quartile of the items: ``items`` (their number), ``least`` and ``most`` (how often
        they occur in training).
    """

    users: list[str]
    items: list[str]
    item_interactions: np.ndarray
    item_quartiles: np.ndarray
    history_lengths: np.ndarray
    quartiles: list[dict[str, int]]

    @property
    def sha256(self) -> str:
        """The same for the same questions over the same training data, in any order."""
        rows = zip(
            self.users,
            self.items,
            self.item_interactions.tolist(),
            self.history_lengths.tolist(),
            strict=True,
        )
        text = "\n".join(sorted("\t".join(map(str, row)) for row in rows))
        return hashlib.sha256(text.encode()).hexdigest()


def read_tested_users(dataset, valid_data, test_data) -> TestedUsers | None:
    """Take the test set from the loaders.

    Parameters
    ----------
    dataset : Dataset
        Knows the raw ids.
    valid_data, test_data : DataLoader
        What they ask for is not part of the training data.

    Returns
    -------
    TestedUsers or None
        None where there is no test user, where a user has several test items (splits other than
        leave-one-out), or where the model has a dataset of its own.
    """
    windows = test_data._dataset.inter_feat
    if not isinstance(windows, Windows):
        return None
    users = windows[dataset.uid_field].numpy()
    if not len(users) or len(np.unique(users)) < len(users):
        return None
    targets = windows[dataset.iid_field].numpy()
    items = windows.store.counted_items()
    held_out = [targets, valid_data._dataset.inter_feat[dataset.iid_field].numpy()]
    counts = np.bincount(items, minlength=dataset.item_num)
    for ids in held_out:
        counts = counts - np.bincount(ids, minlength=dataset.item_num)
    quartile_of, quartiles = _quartiles(counts)
    return TestedUsers(
        users=[str(user) for user in dataset.id2token(dataset.uid_field, users)],
        items=[str(item) for item in dataset.id2token(dataset.iid_field, targets)],
        item_interactions=counts[targets],
        item_quartiles=quartile_of[targets],
        history_lengths=windows.rows - windows.store.user_start(windows.rows),
        quartiles=quartiles,
    )


def _quartiles(counts: np.ndarray) -> tuple[np.ndarray, list[dict[str, int]]]:
    """Quartile (from 1) of each item by id, and the range of each; id 0 is padding."""
    order = np.argsort(counts[1:], kind="stable") + 1
    quartile_of = np.zeros(len(counts), dtype=np.int64)
    about = []
    for number, items in enumerate(np.array_split(order, 4), 1):
        quartile_of[items] = number
        ends = counts[items[[0, -1]]].tolist() if len(items) else [0, 0]
        about.append({"items": len(items), "least": ends[0], "most": ends[1]})
    return quartile_of, about
