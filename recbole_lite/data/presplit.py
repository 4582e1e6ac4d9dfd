"""Data sets that are split already, one file per part (``benchmark_filename``).

The parts become windows over one store, like those of any other split. A row of a part is an
interaction, or, where the parts have a column ``item_id_list``, a history with its target.

With ``replay`` a part of known interactions, which another run was trained on, comes first. It
belongs to the training part, of whose windows each pass draws some.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.types import union_categoricals
from recbole.utils import FeatureSource, FeatureType, ModelType

from recbole_lite.data.parquet_interactions import parquet_file
from recbole_lite.data.stable_order import stable_order
from recbole_lite.data.windows import SequenceStore, Windows
from recbole_lite.utils.dataset_names import find_parts, part_file
from recbole_lite.utils.errors import ConfigError, DataError

_LIST_TYPES = {
    FeatureType.TOKEN: FeatureType.TOKEN_SEQ,
    FeatureType.FLOAT: FeatureType.FLOAT_SEQ,
}
_COUNT_FILTERS = ("user_inter_num_interval", "item_inter_num_interval", "rm_dup_inter")


class PartsMixin:
    """Overrides of RecBole's Dataset for parts.

    Attributes
    ----------
    part_names : list of str or None
        None: the data set is one file, which is split here.
    """

    part_names: list[str] | None = None
    _part: np.ndarray | None = None  # number of the part, of each row of inter_feat

    @property
    def inter_path(self) -> Path:
        """File of the interactions, or of their first part; for messages."""
        name, parts = self.dataset_name, self.part_names
        if parts:
            return Path(self.dataset_path, part_file(name, parts[0]))
        found = parquet_file(self.dataset_path, name)
        return found or Path(self.dataset_path, f"{name}.inter")

    @property
    def part_files(self) -> dict[str, int] | None:
        """Rows of each part's file that the filters left; None where the data are one file."""
        if self.part_names is None:
            return None
        counts = np.bincount(self._part, minlength=len(self.part_names)).tolist()
        files = (part_file(self.dataset_name, part) for part in self.part_names)
        return dict(zip(files, counts, strict=True))

    @property
    def _n_known(self) -> int:
        """Number of parts before that of the training."""
        return int(self.config["replay"] is not None)

    # -- reading ------------------------------------------------------------------------------

    def _load_inter_feat(self, token, dataset_path):
        if self.benchmark_filename_list is None:
            if path := parquet_file(dataset_path, token):
                self.inter_feat = self._load_feat(path, FeatureSource.INTERACTION)
            else:
                super()._load_inter_feat(token, dataset_path)
            return
        self.part_names = list(self.benchmark_filename_list)
        paths = [Path(dataset_path, part_file(token, part)) for part in self.part_names]
        _check_files(paths, token, find_parts(dataset_path, token))
        if Path(dataset_path, f"{token}.inter").is_file():
            self.logger.warning(
                f"{token}.inter is not read: benchmark_filename names the files of the parts"
            )
        frames = self._read_parts(paths)
        self.inter_feat = pd.DataFrame(
            {field: _concatenated([frame[field] for frame in frames]) for field in frames[0]}
        )
        self._part = np.repeat(np.arange(len(frames)), [len(frame) for frame in frames])
        # Otherwise RecBole would neither filter them nor let them be split as everything else.
        self.benchmark_filename_list = None

    def _read_parts(self, paths: list[Path]) -> list[pd.DataFrame]:
        frames, types, lengths = [], None, {}
        for path in paths:
            frame = self._load_feat(str(path), FeatureSource.INTERACTION)
            found = {field: self.field2type[field].value for field in frame}
            types = types or found
            if found != types:
                raise DataError(
                    f"has the columns {_listed(found)}, {paths[0].name} has {_listed(types)}; the "
                    "parts of a data set must have the same columns (of those in load_col)",
                    path,
                    1,
                )
            self._check_lists(frame, path)
            for field in frame:
                lengths[field] = max(lengths.get(field, 0), self.field2seqlen.get(field, 0))
            frames.append(frame)
        self.field2seqlen.update(lengths)
        return [frame[list(types)] for frame in frames]

    def _lists(self, fields: Iterable[str] | None = None) -> dict[str, str]:
        """Columns of the rows, and for each the column of its values in the history."""
        fields, suffix = list(self.inter_feat if fields is None else fields), self._suffix
        if self.iid_field + suffix not in fields:
            return {}
        one = [f for f in fields if f != self.uid_field and self.field2type[f] in _LIST_TYPES]
        return {f: f + suffix for f in one if f + suffix in fields}

    @property
    def _suffix(self) -> str:
        return self.config["LIST_SUFFIX"]

    @property
    def _has_histories(self) -> bool:
        """Whether each row of the parts is a history with its target."""
        return self.part_names is not None and self.iid_field + self._suffix in self.inter_feat

    def _with_lists(self, load: set[str] | None, header: Iterable[str]) -> set[str] | None:
        """Columns to load from a part: with a column also that of its values in the history."""
        if load is None or self.part_names is None:
            return load
        return load | {f for f in header if f.removesuffix(self._suffix) in load}

    def _check_lists(self, frame: pd.DataFrame, path: Path) -> None:
        """Check the types of the columns of histories, and that those of a row are equally long."""
        lists = self._lists(frame)
        for field, name in lists.items():
            wanted = _LIST_TYPES[self.field2type[field]]
            if self.field2type[name] != wanted:
                raise DataError(
                    f"column {name!r} has type {self.field2type[name].value}; the history of "
                    f"{field!r} must have type {wanted.value}",
                    path,
                    1,
                )
        if not lists:
            return
        whole = frame[lists[self.iid_field]].map(len).to_numpy()
        for name in lists.values():
            lengths = frame[name].map(len).to_numpy()
            if (wrong := np.flatnonzero(lengths != whole)).size:
                row = int(wrong[0])
                raise DataError(
                    f"{name} has {lengths[row]} values and {lists[self.iid_field]} has "
                    f"{whole[row]}; the lists of a row must be equally long",
                    path,
                    row + 2,
                )

    def _init_alias(self):
        if self.part_names is not None:
            for field, name in self._lists().items():
                if field != self.iid_field and self.field2type[field] == FeatureType.TOKEN:
                    self._set_alias(field, [field, name])
        super()._init_alias()

    def _set_alias(self, alias_name, default_value):
        # The items of the histories have the ids of items, whether alias_of_item_id says so or not.
        if self._has_histories and default_value == [self.iid_field]:
            default_value = [*default_value, self.iid_field + self._suffix]
        super()._set_alias(alias_name, default_value)

    # -- filters ------------------------------------------------------------------------------

    def _data_filtering(self):
        if self._has_histories:
            for key in _COUNT_FILTERS:
                if self.config[key] not in (None, "[0,inf)"):
                    raise ConfigError(
                        f"{key}: {self.config[key]} counts interactions, and the rows of the parts "
                        f"of {self.dataset_name} are histories ({self.iid_field}{self._suffix}); "
                        f"leave {key} out, or filter before the split"
                    )
        super()._data_filtering()

    def _reset_index(self):
        if self._part is not None:
            self._part = self._part[self.inter_feat.index.to_numpy()]
        super()._reset_index()

    def _benchmark_presets(self):
        """Do nothing: windows know the lengths of their histories."""

    # -- store and windows --------------------------------------------------------------------

    def _part_store(self) -> SequenceStore:
        """Sort the rows of all parts by user, part, exact time and file order.

        Rows that are histories are laid out as sequences of their own, in the order of the file.
        """
        frame, time, part, row = self.inter_feat, self._time, self._part, None
        lists = self._lists() if self._has_histories else {}
        if lists:
            frame, row = self._expand(lists)
            time, part = None, part[row]
        users = frame[self.uid_field].to_numpy()
        order = stable_order(*[key for key in (users, part, time) if key is not None])
        columns = self._dataframe_to_interaction(frame.iloc[order]).interaction
        part = part[order]
        ids = (columns[self.uid_field].numpy(), columns[self.iid_field].numpy())
        self._compare_with_training(*ids, part=part)
        store = SequenceStore(
            columns,
            None if time is None else time[order],
            self.uid_field,
            self.iid_field,
            self.user_num,
        )
        store.part = np.maximum(part - self._n_known, 0)
        if self._n_known:
            store.is_known, store.replay = part < self._n_known, self.config["replay"]
        if row is not None:
            store.set_sequences(row[order])
            store.without_list = {field for field in columns if field not in lists}
        return store

    def _expand(self, lists: dict[str, str]) -> tuple[pd.DataFrame, np.ndarray]:
        """One row for each item of a history, and for the target behind it.

        Returns
        -------
        (DataFrame, numpy.ndarray)
            Rows, ``[n]`` number of the row of ``inter_feat`` that each comes from.
        """
        frame = self.inter_feat
        lengths = frame[lists[self.iid_field]].map(len).to_numpy()
        self._warn_of_rows(lengths == 0, self._part, "have an empty history and are left out")
        rows = np.flatnonzero(lengths)
        if not len(rows):
            raise DataError(f"no row has a history ({lists[self.iid_field]})", self.inter_path)
        frame, lengths = frame.iloc[rows], lengths[rows]
        source = np.repeat(np.arange(len(rows)), lengths + 1)
        is_target = np.zeros(len(source), dtype=bool)
        is_target[np.cumsum(lengths + 1) - 1] = True
        columns = {}
        for field in frame.columns.difference(list(lists.values()), sort=False):
            values = frame[field].to_numpy()[source]
            if field in lists:
                history = np.concatenate(frame[lists[field]].to_list())
                values = values.astype(np.result_type(values, history))
                values[~is_target] = history
            elif values.dtype == object:  # sequences
                for place in np.flatnonzero(~is_target):
                    values[place] = values[place][:0]
            elif field != self.uid_field:
                # Unknown; an item of a history is one that the user chose.
                values[~is_target] = field == self.label_field
            columns[field] = values
        return pd.DataFrame(columns), rows[source]

    def _part_windows(self, store: SequenceStore, settings: tuple) -> Windows:
        """Windows of all parts, in RecBole's order."""
        if store.sequence is not None:
            ends = np.append(np.flatnonzero(np.diff(store.sequence)), len(store) - 1)
            return Windows(store, ends[np.argsort(store.sequence[ends])], *settings)
        windows = Windows.over_all_targets(store, *settings)
        if store.time is not None:
            windows.sort_by_time()
        windows.group_by_user()
        return windows

    def _split_parts(self, windows: Windows) -> list[Windows]:
        """Windows of each part; warns of what the parts ask that training cannot answer."""
        store = windows.store
        of_part = store.part[windows.rows]
        numbers = range(len(self.part_names) - self._n_known)
        parts = [windows.select(windows.rows[of_part == number]) for number in numbers]
        training = np.flatnonzero(store.part == 0)
        if store.sequence is not None:
            training = parts[0].covered_rows()
        else:
            first = np.ones(len(store), dtype=bool)
            first[windows.rows] = False
            first &= store.part > 0
            of_file = np.where(store.part > 0, store.part + self._n_known, 0)
            self._warn_of_rows(first, of_file, "have no earlier row of their user: left out")
            self._warn_of_overlap(store)
        held_out = windows.rows[of_part > 0]
        store.counted_rows = np.sort(np.concatenate([training, held_out]))
        self._warn_of_new(self.iid_field, "items", store, held_out, training)
        if self.config["MODEL_TYPE"] != ModelType.SEQUENTIAL:
            self._warn_of_new(self.uid_field, "users", store, held_out, training)
        return parts

    def _warn_of_new(self, field: str, what: str, store, held_out, training) -> None:
        ids = store.columns[field].numpy()
        new = np.setdiff1d(ids[held_out], ids[training])
        if len(new):
            files = [part_file(self.dataset_name, part) for part in self.part_names]
            n = 1 + self._n_known
            self.logger.warning(
                f"{len(new):,} {what} of {' and '.join(files[n:])} do not occur in "
                f"{' and '.join(files[:n])}; nothing is learned of them"
            )

    def _warn_of_rows(self, which: np.ndarray, part: np.ndarray, what: str) -> None:
        for number, count in enumerate(np.bincount(part[which]).tolist()):
            if count:
                file = part_file(self.dataset_name, self.part_names[number])
                self.logger.warning(f"{count:,} rows of {file} {what}")

    def _warn_of_overlap(self, store: SequenceStore) -> None:
        """Warn of rows that are later than what a later part asks for."""
        if store.time is None:
            return
        users = store.columns[self.uid_field].numpy()
        # Least time of the user from a row on; within a part the row's own.
        least = pd.Series(store.time[::-1]).groupby(users[::-1]).cummin().to_numpy()[::-1]
        late = int((store.time > least).sum())
        if late:
            self.logger.warning(
                f"{late:,} rows are later than a row of the same user in a later part; a history "
                "has the order of the parts, then that of time"
            )


def _concatenated(columns: list[pd.Series]) -> pd.Series | pd.Categorical:
    if isinstance(columns[0].dtype, pd.CategoricalDtype):
        return union_categoricals(columns)
    return pd.concat(columns, ignore_index=True)


def _check_files(paths: list[Path], name: str, present: list[str]) -> None:
    for path in paths:
        if not path.is_file():
            there = f"the folder has the parts {', '.join(present)}" if present else "it has none"
            raise DataError(
                f"there is no such file; benchmark_filename names the parts of {name}, and {there}",
                path,
            )


def _listed(types: dict[str, str]) -> str:
    return ", ".join(f"{field}:{kind}" for field, kind in types.items())
