"""Datasets: RecBole's classes over the strict reader, exact order and lazy windows."""

from __future__ import annotations

import numpy as np
import torch
from recbole.data.dataset import Dataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_lite.data.dataset_processing import ProcessingMixin
from recbole_lite.data.dataset_reading import ReadingMixin
from recbole_lite.data.parquet_interactions import parquet_file
from recbole_lite.data.stable_order import counts_of, smallest_type, stable_order
from recbole_lite.data.stored_sequences import StoredSequences, locked, store_folder
from recbole_lite.data.vocabulary import interactions_sha256
from recbole_lite.data.windows import RunWindows, SequenceStore, Windows
from recbole_lite.utils.errors import DataError, OtherIdsError

WITHOUT_TIMES = '--eval_args="{order: RO}"'


class SequencesMixin(ReadingMixin, ProcessingMixin):
    """Sequences in exact order, kept once; windows over them."""

    def _compare_with_training(
        self,
        users: np.ndarray,
        items: np.ndarray,
        shuffled: bool = False,
        part: np.ndarray | None = None,
    ):
        """Compare the interactions, in the order in which they are used, with the training's."""
        columns = (users, items) if part is None else (users, items, part)
        self.vocabulary.interactions = interactions_sha256(*columns)
        self._check_interactions(shuffled, part is not None)

    def _check_interactions(self, shuffled: bool = False, in_parts: bool = False):
        found = self.vocabulary.interactions
        trained = self._numbering and self._numbering.vocabulary
        if trained is None or trained.interactions in (None, found):
            return
        if in_parts:
            raise OtherIdsError(
                f"{trained.source}: the parts of {self.dataset_name} have other rows than in "
                "training; training interactions could be tested. Use the files of the training"
            )
        if shuffled:
            raise OtherIdsError(
                f"{trained.source}: {self.dataset_name}.inter has other lines than in training, or "
                "the same lines in another order, which determines a random split (eval_args, "
                "order RO): training interactions would be tested. Use the file of the training"
            )
        self.logger.warning(
            f"{trained.source}: {self.dataset_name} has other interactions than in training, or "
            "another order at equal timestamps; figures can differ"
        )

    def _sequence_store(self) -> SequenceStore:
        """Sort interactions by user, exact time and file order (call before conversion)."""
        if self._part is not None:
            return self._part_store()
        frame, self.inter_feat = self.inter_feat, None  # the callers put the columns in its place
        users = frame[self.uid_field].to_numpy()
        order = stable_order(users) if self._time is None else stable_order(users, self._time)
        del users
        rows, columns = torch.from_numpy(order), {}
        for field in list(frame):  # one at a time
            if field in (self.uid_field, self.iid_field):
                ids = frame[field].to_numpy()[order]
                ids = ids.astype(smallest_type(self.num(field)), copy=False)
                columns[field] = torch.from_numpy(ids)
            else:
                values = self._dataframe_to_interaction(frame[[field]])[field]
                columns[field] = values.index_select(0, rows)
                del values
            del frame[field]
        self._compare_with_training(
            columns[self.uid_field].numpy(), columns[self.iid_field].numpy()
        )
        self._time = None if self._time is None else self._time[order]
        return SequenceStore(columns, self._time, self.uid_field, self.iid_field, self.user_num)

    @property
    def avg_actions_of_users(self) -> float:
        """Interactions per user; RecBole counts in a dictionary."""
        return self._mean_count(self.uid_field)

    @property
    def avg_actions_of_items(self) -> float:
        """Interactions per item."""
        return self._mean_count(self.iid_field)

    def _mean_count(self, field: str) -> float:
        counts = counts_of(np.asarray(self.inter_feat[field]), self.num(field))
        return float(counts[counts > 0].mean())

    def _convert_side_features(self):
        for name in self.feat_name_list:
            if name != "inter_feat":
                setattr(self, name, self._dataframe_to_interaction(getattr(self, name)))

    def _all_windows(self, store: SequenceStore) -> Windows:
        keys = ("MAX_ITEM_LIST_LENGTH", "LIST_SUFFIX", "ITEM_LIST_LENGTH_FIELD")
        settings = tuple(self.config[key] for key in keys)
        if store.part is not None:
            return self._part_windows(store, settings)
        return Windows.over_all_targets(store, *settings)

    def __getitem__(self, index, join=True):
        feat = self.inter_feat
        if isinstance(feat, Windows):
            batch = feat.collate(index)
        elif isinstance(index, np.ndarray):  # RecBole would index by a Python list
            rows = torch.from_numpy(index)
            batch = Interaction({field: feat[field][rows] for field in feat})
        else:
            batch = feat[index]
        return self.join(batch) if join else batch

    def join(self, df):
        """Add user and item features to a batch (by tensor index, without Python lists)."""
        for field, feat in ((self.uid_field, self.user_feat), (self.iid_field, self.item_feat)):
            if feat is not None and field in df:
                ids = df[field]
                for name, column in feat.interaction.items():
                    df[name] = column[ids]
        return df


class LiteSequentialDataset(SequencesMixin, SequentialDataset):
    """Dataset of sequential models: windows over sequences in exact order.

    Sequences that are read from a Parquet file are stored (:mod:`.stored_sequences`), unless
    features of users or items are read, too.
    """

    _stored: SequenceStore | None = None

    def _from_scratch(self):
        folder = self._store_folder()
        if folder is None:
            super()._from_scratch()
            return
        with locked(folder) as writable:
            if self._open_store(folder):
                return
            super()._from_scratch()
            if not writable or self._numbering is not None:  # it may number the ids in its own way
                return
            store = self._sequence_store()
            fields = {
                field: [kind.value, self.field2seqlen.get(field), self.field2bucketnum.get(field)]
                for field, kind in self.field2type.items()
            }
            found = StoredSequences(
                store.columns, store.time, store.starts, fields, self.vocabulary
            )
            found.write(folder)
            del store, found
            self._open_store(folder)

    def _store_folder(self):
        config = self.config
        if self.tables is not None or config["benchmark_filename"] is not None:
            return None
        if set(config["load_col"] or ()) != {"inter"} or config["additional_feat_suffix"]:
            return None
        path = parquet_file(config["data_path"], config["dataset"])
        return None if path is None else store_folder(path, config)

    def _open_store(self, folder) -> bool:
        """Take the place of reading; False where there is no store of the same ids."""
        found = StoredSequences.open(folder)
        trained = self._numbering and self._numbering.vocabulary
        if found is None or (trained and trained.sha256 != found.vocabulary.sha256):
            return False
        self._get_preset()
        self._get_field_from_config()
        for field, (kind, length, buckets) in found.fields.items():
            self.field2type[field] = FeatureType(kind)
            self.field2source[field] = FeatureSource.INTERACTION
            if length is not None:
                self.field2seqlen[field] = length
            if buckets is not None:
                self.field2bucketnum[field] = buckets
        self.vocabulary, self._time = found.vocabulary, found.time
        for fields, ids in found.vocabulary.tables:
            self._set_tokens(fields, np.array(["[PAD]", *ids], dtype=object))
        self.inter_feat, self.user_feat, self.item_feat = Interaction(found.columns), None, None
        self.feat_name_list = ["inter_feat"]
        self._init_alias()
        self._check_interactions()
        self._stored = SequenceStore(
            found.columns,
            found.time,
            self.uid_field,
            self.iid_field,
            self.user_num,
            found.starts,
        )
        return True

    def _sequence_store(self) -> SequenceStore:
        return super()._sequence_store() if self._stored is None else self._stored

    def _change_feat_format(self):
        if self._time is None and not self._has_histories:
            raise DataError(
                f"no column {self.time_field!r} was read; sequences need it "
                "(keys TIME_FIELD and load_col). A general model (BPR, ItemKNN, Pop) runs without "
                f"times: {WITHOUT_TIMES}",
                self.inter_path,
            )
        self._convert_side_features()
        store = self._sequence_store()
        self.inter_feat = Interaction(store.columns)
        self._aug_presets()
        self.inter_feat = self._all_windows(store)

    def build(self):
        """Split; parts that the files give are windows like those of any other split."""
        if self._part is None and "LS" not in (self.config["eval_args"]["split"] or {}):
            return super().build()
        self._change_feat_format()
        if self._part is None:  # RecBole would sort by time first: all windows, not the users
            return self.leave_one_out(self.uid_field, self.config["eval_args"]["split"]["LS"])
        self._drop_unused_col()
        return [self.copy(part) for part in self._split_parts(self.inter_feat)]

    def data_augmentation(self):
        """Do nothing: :meth:`_change_feat_format` has made the windows."""

    def sort(self, by, ascending=True):
        """Sort the windows; by time: exactly, which RecBole's float32 times do not allow."""
        if isinstance(self.inter_feat, Windows) and by == self.time_field and ascending is True:
            self.inter_feat.sort_by_time()
        else:
            super().sort(by, ascending)

    def leave_one_out(self, group_by, leave_one_mode):
        """RecBole's rule and order, on arrays.

        A user's last window is tested on and the one before validates, as long as one is left
        for training.
        """
        self._drop_unused_col()
        parts = split_last(self.inter_feat, 2 if leave_one_mode == "valid_and_test" else 1)
        if leave_one_mode == "valid_only":
            parts = [*parts, parts[0].select([])]
        elif leave_one_mode == "test_only":
            parts = [parts[0], parts[0].select([]), parts[1]]
        return [self.copy(part) for part in parts]

    def inter_matrix(self, form="coo", value_field=None):
        """User-item matrix of the windows' targets and of each user's first item."""
        windows = self.inter_feat
        if windows.store.sequence is not None:
            rows = windows.covered_rows()
        else:
            rows = np.append(windows.rows, np.unique(windows.store.user_start(windows.rows)))
        local = windows.select(rows)
        fields = [self.uid_field, self.iid_field, *([value_field] if value_field else [])]
        return self._create_sparse_matrix(
            Interaction({field: local[field] for field in fields}),
            self.uid_field,
            self.iid_field,
            form,
            value_field,
        )


class LiteGeneralDataset(SequencesMixin, Dataset):
    """Dataset of models without sequences (Pop, BPR ...), split and ranked like the others.

    Training holds plain interactions; validation and test are the same windows that a
    sequential model gets, so that all models are tested alike.
    """

    def build(self):
        """Split; ratios and random orders are left to RecBole."""
        if self._part is not None:
            return self._build_windows()
        split, order = (self.config["eval_args"][key] for key in ("split", "order"))
        if order == "TO" and self._time is None:
            raise DataError(
                f"no column {self.time_field!r} was read, and eval_args order: TO splits by time. "
                f"Set {WITHOUT_TIMES} to split at random, or TIME_FIELD and load_col",
                self.inter_path,
            )
        if order != "TO" or split != {"LS": "valid_and_test"}:
            self._compare_lines_with_training()
            return super().build()
        return self._build_windows()

    def _build_windows(self):
        """Plain interactions for training, and windows for each part that is held out."""
        self._convert_side_features()
        store = self._sequence_store()
        windows = self._all_windows(store)
        self.inter_feat = Interaction(store.columns)
        self._drop_unused_col()
        if store.part is not None:
            train, *held_out = self._split_parts(windows)
            in_training = store.part == 0
        else:
            train, *held_out = split_last(windows, 2)
            in_training = np.ones(len(store), dtype=bool)
            for part in held_out:
                in_training[part.rows] = False
        rows = np.flatnonzero(in_training) if store.sequence is None else train.covered_rows()
        train = Interaction({field: store.take(field, rows) for field in store.columns})
        return [self.copy(part) for part in (train, *held_out)]

    def _compare_lines_with_training(self):
        users, items = (self.inter_feat[f].to_numpy() for f in (self.uid_field, self.iid_field))
        if self.config["eval_args"]["order"] == "TO" and self._time is not None:
            order = stable_order(users, self._time)
            self._compare_with_training(users[order], items[order])
        else:
            self._compare_with_training(users, items, shuffled=True)


def split_last(windows: RunWindows, n: int) -> list[Windows]:
    """Hold out the last `n` windows of each user, one part each; at least one stays.

    Users have the order of the time of their first window, at equal times that of their ids. It is
    RecBole's order, which sorts all windows by time.

    Returns
    -------
    list of Windows
        Training, then the parts left out, the latest last.
    """
    store, starts, counts = windows.store, windows.run_starts, windows.run_counts
    if store.time is not None:
        order = stable_order(store.time[starts])
        starts, counts = starts[order], counts[order]
    parts = [(starts + counts - k)[counts > k] for k in range(n, 0, -1)]
    settings = (windows.max_length, windows.list_suffix, windows.length_field)
    training = RunWindows(store, starts, counts - np.minimum(counts - 1, n), *settings)
    return [training, *map(windows.select, parts)]
