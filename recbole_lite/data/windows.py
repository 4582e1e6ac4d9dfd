"""Sequences stored once as flat arrays; windows and segments of them collated per batch.

RecBole's ``data_augmentation`` loops over all interactions and stores one row of
``MAX_ITEM_LIST_LENGTH`` values per window and per field. A window is nothing but a position in
the flat arrays, so here only positions are stored.
"""

from __future__ import annotations

import copy
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction

from recbole_lite.data.stable_order import by_appearance, counts_of, stable_order

SEEN = "seen_list"  # field of a batch: items of the user before the window
CANDIDATES = "topn_candidates"  # field of a batch: the target among negatives (task: topn)


class SequenceStore:
    """All interactions, sorted by user, then time, then file order.

    Parameters
    ----------
    columns : dict of str to torch.Tensor
        Field -> ``[n]`` or ``[n, k]``; rows of a user are contiguous, users ascending. Ids can be
        int32.
    time : numpy.ndarray or None
        ``[n]`` exact times (not rounded to float32), ascending within a user.
    user_field, item_field : str
    n_users : int
        Number of users, padding included; user ids are below it.
    starts : numpy.ndarray, optional
        ``[n_users + 1]`` first row of each user, where they are known.

    Attributes
    ----------
    sequence, part : numpy.ndarray or None
        ``[n]`` numbers. The rows of one sequence follow one another; None: a user is a sequence.
        Part of a split that the files give (:mod:`recbole_lite.data.presplit`).
    counted_rows : numpy.ndarray or None
        Rows that have each interaction of training, validation and test once; None: all.
    is_known : numpy.ndarray or None
        ``[n]``, whether another run was trained on the row (``replay``); None: no row.
    replay : float
        Share of the windows of known rows that an epoch trains on.
    without_list : set of str
        Fields that have no values in the history.
    """

    def __init__(
        self,
        columns: dict[str, torch.Tensor],
        time: np.ndarray | None,
        user_field: str,
        item_field: str,
        n_users: int,
        starts: np.ndarray | None = None,
    ):
        self.columns = columns
        self.time = time
        self.user_field = user_field
        self.item_field = item_field
        if starts is None:
            counts = counts_of(columns[user_field].numpy(), n_users)
            starts = np.concatenate([[0], np.cumsum(counts)])
        self.starts = starts  # starts[u]..starts[u + 1] are the rows of user u
        self.sequence: np.ndarray | None = None
        self.part: np.ndarray | None = None
        self.counted_rows: np.ndarray | None = None
        self.is_known: np.ndarray | None = None
        self.replay = 1.0
        self.without_list = {user_field}

    def __len__(self) -> int:
        return len(self.columns[self.user_field])

    def take(self, field: str, rows: np.ndarray) -> torch.Tensor:
        """Values of a field at rows, in the types of RecBole: ids as int64."""
        values = self.columns[field][torch.from_numpy(rows)]
        return values.long() if values.dtype == torch.int32 else values

    def user_start(self, rows: np.ndarray) -> np.ndarray:
        """First row of the user, or of the sequence, to which each of `rows` belongs."""
        if self.sequence is not None:
            return self._sequence_starts[rows]
        return self.starts[self.columns[self.user_field].numpy()[rows]]

    def set_sequences(self, sequence: np.ndarray) -> None:
        """Make several sequences of a user's rows; see ``sequence`` above."""
        first = np.flatnonzero(np.diff(sequence, prepend=sequence[0] - 1))
        self._sequence_starts = np.repeat(first, np.diff(first, append=len(sequence)))
        self.sequence = sequence

    def counted_items(self) -> np.ndarray:
        """Items of all interactions of training, validation and test, ``[n]``."""
        items = self.columns[self.item_field].numpy()
        return items if self.counted_rows is None else items[self.counted_rows]


class Windows(Interaction):
    """Rows ``(history -> target)`` over a :class:`SequenceStore`, one position each.

    It takes the place of the augmented ``Interaction`` of RecBole's datasets: the target's own
    fields can be read as columns, sub-selections are windows again. :meth:`collate` makes the
    batch with its list fields.

    Parameters
    ----------
    store : SequenceStore
    rows : numpy.ndarray
        Positions of the targets in the store, each with at least one earlier row of its user.
    max_length : int
        Longest history in a window.
    list_suffix, length_field : str
        ``config["LIST_SUFFIX"]`` and ``config["ITEM_LIST_LENGTH_FIELD"]``.
    """

    def __init__(
        self,
        store: SequenceStore,
        rows: np.ndarray,
        max_length: int,
        list_suffix: str,
        length_field: str,
    ):
        self.store = store
        self.rows = np.asarray(rows, dtype=np.int64)
        self.max_length = max_length
        self.list_suffix = list_suffix
        self.length_field = length_field
        self.lists_seen = False
        # Whether a batch is as wide as its longest history, or always as `max_length`.
        self.cuts_padding = False
        # Of data/topn_candidates.py: what is ranked, where not every item is.
        self.candidates = None
        # Share of the store's rows that each epoch leaves out of the histories, and these rows.
        self.drop_ratio = 0.0
        self.dropped: np.ndarray | None = None

    @classmethod
    def over_all_targets(cls, store: SequenceStore, *args) -> RunWindows:
        """One window for every interaction that has an earlier one of the same user."""
        return RunWindows(store, store.starts[:-1] + 1, np.diff(store.starts) - 1, *args)

    # -- RecBole's view: columns of the targets ---------------------------------------------

    @property
    def length(self) -> int:
        """Number of windows."""
        return len(self.rows)

    @property
    def interaction(self) -> dict[str, torch.Tensor]:
        """The targets' own fields, read from the store at each call."""
        fields = {field: self.store.take(field, self.rows) for field in self.store.columns}
        fields[self.length_field] = torch.from_numpy(self.lengths())
        return fields

    def __getattr__(self, name):
        raise AttributeError(f"'Windows' object has no attribute {name!r}")

    def __len__(self) -> int:
        return self.length

    def __iter__(self):
        return iter([*self.store.columns, self.length_field])

    def __contains__(self, field) -> bool:
        return field in self.store.columns or field == self.length_field

    @property
    def columns(self) -> list[str]:
        """Names of the targets' fields."""
        return list(self)

    def __getitem__(self, index):
        if isinstance(index, str):
            if index == self.length_field:
                return torch.from_numpy(self.lengths())
            if index in self.store.columns:
                return self.store.take(index, self.rows)
            lengths = self.lengths()
            positions = self._positions(self.rows, lengths, self.max_length)
            return self._lists(positions, lengths, [index])[index]
        return self.select(self.rows[_as_index(index)])

    def select(self, rows: np.ndarray) -> Windows:
        """Windows with the same settings at other rows of the store."""
        other = copy.copy(self)
        other.rows = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        return other

    def _reindex(self, index):
        self.rows = self.rows[_as_index(index)]

    def sort(self, by, ascending=True):
        """Sort the windows in place by fields of their targets, stable; times are exact."""
        by = [by] if isinstance(by, str) else list(by)
        ascending = [ascending] * len(by) if isinstance(ascending, bool) else list(ascending)
        for field, up in zip(reversed(by), reversed(ascending), strict=True):
            key = self[field].numpy()
            order = np.argsort(key, kind="stable")
            self._reindex(order if up else order[::-1])

    def sort_by_time(self):
        """Sort the windows in place by the exact time of their targets; ties keep their order."""
        self._reindex(stable_order(self.store.time[self.rows]))

    def group_by_user(self) -> np.ndarray:
        """Sort the windows in place by user, the one whose window comes first being the first.

        That is RecBole's order of users; a user's windows keep theirs.

        Returns
        -------
        numpy.ndarray
            ``[n]`` number of the user of each window, from 0.
        """
        users, n_users = self[self.store.user_field].numpy(), len(self.store.starts)
        place, appeared = np.zeros(n_users, dtype=np.int64), by_appearance(users, n_users)
        place[appeared] = np.arange(len(appeared))
        owner = place[users]
        order = stable_order(owner)
        self._reindex(order)
        return owner[order]

    def drop(self, column):
        """Leave a field out of the store, for all windows that share it."""
        self.store.columns.pop(column)

    # -- batches ----------------------------------------------------------------------------

    def collate(self, index, inputs: tuple[np.ndarray, np.ndarray] | None = None) -> Interaction:
        """Batch of windows.

        Parameters
        ----------
        index : int, slice, list, numpy.ndarray or torch.Tensor
            Which windows.
        inputs : tuple of numpy.ndarray, optional
            Their :meth:`inputs`, where these are known.

        Returns
        -------
        Interaction
            The targets' fields ``[B]``, ``<field>_list`` of every field but the user's
            ``[B, max_length]`` (earliest first, padded with zeros; with ``cuts_padding``
            ``[B, longest history]``) and the length ``[B]``. With ``lists_seen`` also
            ``seen_list``: the user's items before the window, ``[B, longest]``. With
            ``candidates`` also ``topn_candidates``, ``[B, C]``.
        """
        index = _as_index(index)
        rows = np.atleast_1d(self.rows[index])
        batch = {field: self.store.take(field, rows) for field in self.store.columns}
        positions, lengths = inputs or self.inputs(index)
        batch[self.length_field] = torch.from_numpy(lengths)
        names = [
            field + self.list_suffix
            for field in self.store.columns
            if field not in self.store.without_list
        ]
        batch.update(self._lists(positions, lengths, names))
        if self.lists_seen:
            first = rows - np.minimum(rows - self.first_row_of(index), self.max_length)
            batch[SEEN] = self._seen(first)
            if self.dropped is not None:
                batch[SEEN] = torch.cat([batch[SEEN], self._dropped_items(first, rows)], 1)
        if self.candidates is not None:
            batch[CANDIDATES] = torch.from_numpy(self.candidates.select(rows))
        return Interaction(batch)

    def first_row_of(self, selection) -> np.ndarray:
        """First row that belongs to each of the selected windows: here the user's first."""
        return self.store.user_start(np.atleast_1d(self.rows[selection]))

    def inputs(self, index) -> tuple[np.ndarray, np.ndarray]:
        """Histories of windows, without what this epoch drops (``history_drop_ratio``).

        Returns
        -------
        tuple of numpy.ndarray
            Rows of the store, earliest first, ``[B, L]``, of which the first `lengths` ``[B]``
            are the history. The newest item stays where all would be dropped.
        """
        index = _as_index(index)
        rows = np.atleast_1d(self.rows[index])
        lengths = np.minimum(rows - self.first_row_of(index), self.max_length)
        width = lengths.max(initial=1) if self.cuts_padding else self.max_length
        positions = self._positions(rows, lengths, width)
        if self.dropped is None:
            return positions, lengths
        inside = np.arange(width) < lengths[:, None]
        kept = inside & ~self.dropped[positions]
        empty = np.flatnonzero(~kept.any(1))
        kept[empty, lengths[empty] - 1] = True
        order, lengths = np.argsort(~kept, 1, kind="stable"), kept.sum(1)
        width = lengths.max(initial=1) if self.cuts_padding else width
        return np.take_along_axis(positions, order, 1)[:, :width], lengths

    def draw_dropped(self, generator: torch.Generator) -> None:
        """Draw what this epoch drops."""
        self.dropped = (torch.rand(len(self.store), generator=generator) < self.drop_ratio).numpy()

    def _dropped_items(self, first: np.ndarray, rows: np.ndarray) -> torch.Tensor:
        """Items that were dropped between two rows, ``[B, longest]``, zeros between them."""
        positions = self._positions(rows, rows - first, (rows - first).max(initial=1))
        out = self.dropped[positions] & (positions < rows[:, None])
        return self.store.take(self.store.item_field, positions) * torch.from_numpy(out)

    def history(self, index) -> tuple[torch.Tensor, torch.Tensor]:
        """All items of the users before the targets, not only those in the window.

        Returns
        -------
        tuple of torch.Tensor
            Row numbers within the selection and item ids, ``[total]`` each. A target that the
            user has had before is among them: to leave it out would tell which item it is.
        """
        rows = np.atleast_1d(self.rows[_as_index(index)])
        starts = self.store.user_start(rows)
        owner, before = expand_ranges(starts, rows - starts)
        return torch.from_numpy(owner), self.store.take(self.store.item_field, before)

    def _seen(self, rows: np.ndarray) -> torch.Tensor:
        """Items of the users before each of `rows`, ``[B, longest]``, padded with zeros."""
        starts = self.store.user_start(rows)
        counts = rows - starts
        steps = np.arange(counts.max(initial=0))
        inside = torch.from_numpy(steps < counts[:, None])
        positions = starts[:, None] + np.minimum(steps, np.maximum(counts - 1, 0)[:, None])
        return self.store.take(self.store.item_field, positions) * inside

    def user_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """First row in the store and row of the last target, of each user who has a window.

        Where a user has several sequences: of each, but of those that another one continues.
        """
        rows = self.rows
        if self.store.sequence is None:
            users = self.store.columns[self.store.user_field].numpy()[rows]
            last = np.zeros(len(self.store.starts) - 1, dtype=np.int64)
            np.maximum.at(last, users, rows)
            users = np.flatnonzero(last)  # a target comes behind the user's first row
            return self.store.starts[users], last[users]
        rows = rows[~_continued(self.store, rows)]
        last = np.zeros(len(self.store), dtype=np.int64)  # by first row
        np.maximum.at(last, self.store.user_start(rows), rows)
        first = np.flatnonzero(last)
        return first, last[first]

    def covered_rows(self) -> np.ndarray:
        """Rows of the store from the first of each user to the last target, ``[n]``."""
        first, last = self.user_bounds()
        return ranges(first, last - first + 1)

    def interactions(self) -> tuple[np.ndarray, np.ndarray]:
        """Users and items of all interactions that the windows cover, ``[n]`` each."""
        rows, store = self.covered_rows(), self.store
        users, items = (store.take(field, rows) for field in (store.user_field, store.item_field))
        return users.numpy(), items.numpy()

    def target_items(self) -> torch.Tensor:
        """Items of all targets, ``[n]``: those of the covered rows but the first of each user."""
        first, last = self.user_bounds()
        return self.store.take(self.store.item_field, ranges(first + 1, last - first))

    def lengths(self) -> np.ndarray:
        """Number of inputs of each window, ``[n]``."""
        return np.minimum(self.rows - self.first_row_of(slice(None)), self.max_length)

    def target_counts(self) -> np.ndarray:
        """Number of targets that a training asks each window for, ``[n]``: one."""
        return np.ones(len(self.rows), dtype=np.int64)

    @staticmethod
    def _positions(rows: np.ndarray, lengths: np.ndarray, width: int) -> np.ndarray:
        """Rows of the histories, ``[B, width]``; those behind a history's end are the target's."""
        return (rows - lengths)[:, None] + np.minimum(np.arange(width), lengths[:, None])

    def _lists(
        self, positions: np.ndarray, lengths: np.ndarray, names: list[str]
    ) -> dict[str, torch.Tensor]:
        padding = torch.from_numpy(np.arange(positions.shape[1]) >= lengths[:, None])
        lists = {}
        for name in names:
            # [B, L] or [B, L, k]
            values = self.store.take(name.removesuffix(self.list_suffix), positions)
            values[padding] = 0
            lists[name] = values
        return lists


class RunWindows(Windows):
    """Windows of users' first targets, whose rows are laid out when they are asked for.

    Most trainings never ask: windows that are resampled need the bounds of the runs alone.

    Parameters
    ----------
    store : SequenceStore
    starts, counts : numpy.ndarray
        ``[n_users]`` row of each user's second interaction, and number of targets from there on;
        users with fewer than one are left out.
    *settings
        See :class:`Windows`.
    """

    def __init__(self, store: SequenceStore, starts: np.ndarray, counts: np.ndarray, *settings):
        super().__init__(store, np.zeros(0), *settings)
        del self.rows
        self.run_starts, self.run_counts = starts[counts > 0], counts[counts > 0]

    @cached_property
    def rows(self) -> np.ndarray:
        """Positions of the targets in the store, user by user."""
        return ranges(self.run_starts, self.run_counts)

    @property
    def length(self) -> int:
        """Number of windows."""
        return int(self.run_counts.sum())

    def select(self, rows: np.ndarray) -> Windows:
        """Windows with the same settings at other rows of the store."""
        other = Windows.__new__(Windows)
        vars(other).update(vars(self), rows=np.atleast_1d(np.asarray(rows, dtype=np.int64)))
        return other

    def user_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """See :meth:`Windows.user_bounds`."""
        if self.store.sequence is not None:
            return super().user_bounds()
        order = np.argsort(self.run_starts)
        return self.run_starts[order] - 1, (self.run_starts + self.run_counts)[order] - 1


class ResampledWindows(Windows):
    """Training windows that are resampled for every epoch.

    Parameters
    ----------
    windows : Windows
        The training windows; a user without any has none here.

    Attributes
    ----------
    first_rows, last_rows : numpy.ndarray
        ``[n_users]`` first and last row of the store for the windows of each user.
    """

    of_each = ("rows",)  # attributes with one value for each window

    def __init__(self, windows: Windows):
        vars(self).update(vars(windows))  # store and settings
        self.first_rows, self.last_rows = windows.user_bounds()

    def user_bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """First and last row of each user, whatever windows were sampled."""
        return self.first_rows, self.last_rows

    def resample(self, generator: torch.Generator) -> None:
        """Sample new windows; the generator's state decides which.

        Of windows whose targets are all known, a share stays (``replay``).
        """
        self.lay(generator)
        if self.store.is_known is None:
            return
        new = np.concatenate([[0], np.cumsum(~self.store.is_known)])  # rows before each row
        ends = self.rows + 1
        chance = torch.rand(len(ends), generator=generator, dtype=torch.float64).numpy()
        kept = (new[ends] > new[ends - self.target_counts()]) | (chance < self.store.replay)
        for name in self.of_each:
            setattr(self, name, getattr(self, name)[kept])

    def lay(self, generator: torch.Generator) -> None:
        """Lay windows over everything that is trained on."""
        raise NotImplementedError


class ReplayedWindows(ResampledWindows):
    """The training windows, of those of known interactions others in every epoch."""

    def __init__(self, windows: Windows):
        super().__init__(windows)
        self.all_rows = windows.rows
        # Any sample will do here: it gives the loader a typical number of windows.
        self.resample(torch.Generator().manual_seed(0))

    def lay(self, generator: torch.Generator) -> None:
        """Lay all windows."""
        self.rows = self.all_rows


class RandomSegments(ResampledWindows):
    """One random segment of each user's training sequence, resampled for every epoch.

    The rule is POD's (Li et al., CIKM 2023), which the paper follows (Section 5.1.4,
    "LITE-LLM4Rec_sampling"): of a sequence of n items, its start is uniform in 0..n-2 and its
    end in start+1..n-1; the last item is the label, at most ``max_length`` before it the input.

    Parameters
    ----------
    windows : Windows
        The training windows; a user without any has no segment.
    """

    of_each = ("rows", "begins")

    def __init__(self, windows: Windows):
        super().__init__(windows)
        self.rows = self.last_rows  # until the first draw: whole sequences
        self.begins = self.first_rows

    def lay(self, generator: torch.Generator) -> None:
        """Sample a new segment for every user."""
        chance = torch.rand((2, len(self.first_rows)), generator=generator, dtype=torch.float64)
        start, end = chance.numpy()
        n = self.last_rows - self.first_rows + 1
        starts = np.floor(start * (n - 1)).astype(np.int64)  # 0 .. n - 2
        ends = starts + 1 + np.floor(end * (n - 1 - starts)).astype(np.int64)  # .. n - 1
        self.begins = self.first_rows + starts
        self.rows = self.first_rows + ends

    def first_row_of(self, selection) -> np.ndarray:
        """First row of each of the selected segments."""
        return np.atleast_1d(self.begins[selection])


def _continued(store: SequenceStore, rows: np.ndarray) -> np.ndarray:
    """Whether the sequence up to each of `rows` begins another one of its user, or repeats it."""
    first = store.user_start(rows)
    users = store.columns[store.user_field].numpy()
    items = store.columns[store.item_field].numpy().astype(np.int64)
    length, n_items = rows - first + 1, items.max(initial=0) + 1
    found = np.zeros(len(rows), dtype=bool)
    alive, begun = np.arange(len(rows)), users[rows].astype(np.int64)
    for step in range(length.max(initial=0)):  # sequences with one beginning get one number
        begun = begun * n_items + items[first[alive] + step]
        _, begun = np.unique(begun, return_inverse=True)
        ends = length[alive] == step + 1
        again = np.isin(begun[ends], begun[~ends]) | pd.Series(begun[ends]).duplicated().to_numpy()
        found[alive[ends]] = again
        alive, begun = alive[~ends], begun[~ends]
    return found


def expand_ranges(starts: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers from each start on, as many as its count, and the place of the start of each."""
    owner = np.repeat(np.arange(len(counts)), counts)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
    return owner, starts[owner] + step


def ranges(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Numbers of :func:`expand_ranges` alone, in the memory of the result."""
    starts, counts = starts[counts > 0], counts[counts > 0]
    steps = np.ones(counts.sum(), dtype=np.int64)
    if len(starts):
        steps[0] = starts[0]
        steps[np.cumsum(counts)[:-1]] = starts[1:] - (starts + counts)[:-1] + 1
    return np.cumsum(steps, out=steps)


def _as_index(index):
    """Index that NumPy understands; lists and tensors become arrays."""
    if isinstance(index, torch.Tensor):
        index = index.numpy()
    if isinstance(index, (list, tuple, range)):
        index = np.asarray(index)
    if isinstance(index, np.ndarray) and index.size == 0:
        index = index.astype(np.int64)
    return index
