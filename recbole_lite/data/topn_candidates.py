"""Candidates of the Top-N task: each window's target among items that are not its user's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from recbole_lite.config.registry import reads_candidates
from recbole_lite.data.windows import Windows
from recbole_lite.utils.errors import ConfigError, DataError
from recbole_lite.utils.files import write_atomically

_ROUNDS = 20  # of redrawing seen and repeated items, before such rows are sampled exactly


class NegativeSampler:
    """Unseen items of users, sampled uniformly without replacement.

    Parameters
    ----------
    users, items : numpy.ndarray
        ``[n]`` internal ids: the users' histories, or whatever else excludes items.
    n_items : int
        Number of items, padding (id 0) included.
    count : int
        Negatives of a draw.
    name_of : callable
        Internal id of a user -> how messages call the user.
    by : str, optional
        Field of the targets that takes the place of the user: what it is paired with in `items` is
        excluded.
    """

    def __init__(
        self,
        users: np.ndarray,
        items: np.ndarray,
        n_items: int,
        count: int,
        name_of: Callable[[int], str] = str,
        by: str | None = None,
    ):
        self.n_items, self.count, self.name_of, self.by = n_items, count, name_of, by
        # Pairs as sorted numbers: memory grows with the interactions, not with users times items.
        self.seen = np.unique(np.asarray(users, np.int64) * n_items + np.asarray(items, np.int64))

    def check(self, users: np.ndarray) -> None:
        """Raise a DataError where one of `users` has too few items left to draw from."""
        users = np.unique(users).astype(np.int64)
        ends = np.searchsorted(self.seen, (users + 1) * self.n_items)
        left = self.n_items - 1 - (ends - np.searchsorted(self.seen, users * self.n_items))
        if len(users) and left.min() < self.count:
            user = users[left.argmin()]
            raise DataError(
                f"user {self.name_of(user)} has not had {left.min():,} of the "
                f"{self.n_items - 1:,} items; {self.count} negatives cannot be drawn. Set a "
                "smaller topn_negatives"
            )

    def sample(self, users: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Draw negatives for each of `users`, ``[B]`` -> ``[B, count]``."""
        users = np.asarray(users, np.int64)
        drawn = rng.integers(1, self.n_items, (len(users), self.count))
        rows = np.arange(len(users))  # still to be looked at
        # A redraw treats all items alike, so every tuple of different ones stays as likely.
        for _ in range(_ROUNDS):
            bad = self._seen(users[rows], drawn[rows]) | _repeats(drawn[rows])
            rows, bad = rows[bad.any(1)], bad[bad.any(1)]
            if not len(rows):
                return drawn
            redrawn = drawn[rows]
            redrawn[bad] = rng.integers(1, self.n_items, int(bad.sum()))
            drawn[rows] = redrawn
        for row in rows:  # users with nearly all items in their history
            drawn[row] = rng.choice(self._unseen(users[row]), self.count, replace=False)
        return drawn

    def _seen(self, users, items):
        keys = users[:, None] * self.n_items + items
        at = np.searchsorted(self.seen, keys).clip(max=len(self.seen) - 1)
        return self.seen[at] == keys

    def _unseen(self, user):
        begin, end = np.searchsorted(self.seen, [user * self.n_items, (user + 1) * self.n_items])
        return np.setdiff1d(np.arange(1, self.n_items), self.seen[begin:end] - user * self.n_items)


def _repeats(drawn: np.ndarray) -> np.ndarray:
    """Whether a value stands further left in its row, too; same shape."""
    order = np.argsort(drawn, axis=1, kind="stable")
    ordered = np.take_along_axis(drawn, order, 1)
    again = np.zeros(drawn.shape, bool)
    np.put_along_axis(again, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
    return again


def _insert_targets(targets, negatives, rng) -> np.ndarray:
    """Put each target at a uniform place among its negatives: ``[B, count + 1]``."""
    rows, place = np.arange(len(targets)), rng.integers(0, negatives.shape[1] + 1, len(targets))
    candidates = np.column_stack([negatives, targets])
    candidates[rows, -1] = candidates[rows, place]
    candidates[rows, place] = targets
    return candidates


class EvalCandidates:
    """Candidates of validation or test: sampled once, in the order of the users.

    They depend on the seed and the data alone, so all models get the same.
    """

    def __init__(self, sampler: NegativeSampler, windows: Windows, seed: list[int]):
        self.rows = np.unique(windows.rows)
        users, targets = _users_and_targets(windows.select(self.rows), sampler.by)
        sampler.check(users)
        rng = np.random.default_rng(seed)
        self.table = _insert_targets(targets, sampler.sample(users, rng), rng)

    def select(self, rows: np.ndarray) -> np.ndarray:
        """Candidates of the windows with these targets, ``[B]`` rows -> ``[B, count + 1]``."""
        return self.table[np.searchsorted(self.rows, rows)]


class TrainCandidates:
    """Candidates of training: sampled batch by batch, and others in every epoch."""

    def __init__(self, sampler: NegativeSampler, windows: Windows, seed: int):
        self.sampler, self.windows, self.seed, self.epoch = sampler, windows, seed, 0
        sampler.check(_users_and_targets(windows, sampler.by)[0])

    def resample(self, generator: torch.Generator) -> None:
        """Begin an epoch; the generator's state decides, which a checkpoint holds."""
        self.epoch = int(torch.randint(2**62, (), generator=generator))

    def select(self, rows: np.ndarray) -> np.ndarray:
        """Candidates of a batch, ``[B]`` rows -> ``[B, count + 1]``."""
        users, targets = _users_and_targets(self.windows.select(rows), self.sampler.by)
        # Seeded by the batch, not by its turn: processes that load batches need no common state.
        rng = np.random.default_rng([self.seed, self.epoch, *map(int, rows)])
        return _insert_targets(targets, self.sampler.sample(users, rng), rng)


def _users_and_targets(windows, by: str | None = None):
    store = windows.store
    return windows[by or store.user_field].numpy(), windows[store.item_field].numpy()


def attach_candidates(config, dataset, parts) -> None:
    """Give the windows of training, validation and test their candidates (``task: topn``).

    In validation and test a negative is an item that occurs nowhere in the user's history, the
    held-out items included. In training what is held out counts as unknown: an item that is
    never among a user's negatives would be known by that. With ``eval_exclude_history: False`` a
    negative is any item but the target, as users may come back to what they have had.

    Parameters
    ----------
    config : LiteConfig
        Keys ``topn_negatives``, ``topn_seed``, ``eval_exclude_history``.
    dataset : Dataset
    parts : sequence of Dataset
        Training, validation and test.

    Raises
    ------
    ConfigError
        The data are not split into windows.
    DataError
        A user's history has too many items.
    """
    train, *held_out = (part.inter_feat for part in parts)
    reader = reads_candidates(config.model_class)
    if not all(isinstance(part, Windows) for part in held_out) or (
        reader and not isinstance(train, Windows)
    ):
        raise ConfigError(
            "task: topn asks for one item of each user: leave eval_args split at "
            "{LS: valid_and_test}"
        )
    seed, count = config["topn_seed"], config["topn_negatives"]

    def sampler(users, items):
        def name_of(user):
            return repr(str(dataset.id2token(dataset.uid_field, int(user))))

        if config["eval_exclude_history"]:
            return NegativeSampler(users, items, dataset.item_num, count, name_of)
        every = np.arange(dataset.item_num)
        return NegativeSampler(every, every, dataset.item_num, count, by=dataset.iid_field)

    if count > dataset.item_num - 2:
        raise DataError(
            f"there are {dataset.item_num - 2:,} items beside the target; {count} negatives cannot "
            "be drawn. Set a smaller topn_negatives"
        )
    store = held_out[-1].store
    rows = np.arange(len(store))
    users, items = (store.take(name, rows).numpy() for name in (store.user_field, store.item_field))
    whole = sampler(users, items)
    for phase, windows in enumerate(held_out, 1):
        windows.candidates = EvalCandidates(whole, windows, [seed, phase])
    if reader:
        known = sampler(*train.interactions())
        train.candidates = TrainCandidates(known, train, seed)


def write_candidates(path: Path, dataset, part) -> str:
    """Write the candidates of validation or test, one JSON object per line.

    ``{"user": ..., "item": the right one, "candidates": [in the order of the input]}``, raw ids,
    in the order of the internal ids of the users.

    Returns
    -------
    str
        SHA-256 of the file's content: equal for models that ranked the same candidates.
    """
    candidates = part.inter_feat.candidates
    windows = part.inter_feat.select(candidates.rows)
    users, targets = _users_and_targets(windows)
    users = dataset.id2token(dataset.uid_field, users)
    items = np.asarray(dataset.id2token(dataset.iid_field, np.arange(dataset.item_num)))
    lines = [
        json.dumps(
            {"user": str(user), "item": str(items[target]), "candidates": [*map(str, items[row])]},
            ensure_ascii=False,
        )
        for user, target, row in zip(users, targets, candidates.table, strict=True)
    ]
    content = "".join(f"{line}\n" for line in lines).encode()
    write_atomically(path, lambda name: name.write_bytes(content))
    return hashlib.sha256(content).hexdigest()
