"""Filtering, id mapping and conversion of RecBole's tables, vectorised and exact."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Mapping
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from recbole.data.interaction import Interaction
from recbole.utils import FeatureType

from recbole_lite.data.atomic_reader import AtomicTable
from recbole_lite.data.column_settings import TYPE_OF, names_in
from recbole_lite.data.interaction_filters import drop_repeated_pairs, filter_by_counts
from recbole_lite.data.stable_order import by_appearance, smallest_type
from recbole_lite.data.vocabulary import Numbering, Vocabulary
from recbole_lite.utils.errors import ConfigError, DataError


class ProcessingMixin:
    """Overrides of RecBole's Dataset between files and tensors; why: docs/recbole.md.

    Parameters
    ----------
    config : LiteConfig
    trained : Vocabulary, optional
        Of the checkpoint that the data are read for: decides the internal ids.
    tables : mapping of str to AtomicTable, optional
        Data in memory, by the ending of the file that each table replaces.

    Attributes
    ----------
    vocabulary : Vocabulary
        Raw ids by internal id.
    """

    def __init__(
        self,
        config,
        trained: Vocabulary | None = None,
        tables: Mapping[str, AtomicTable] | None = None,
    ):
        self.tables = tables
        self.vocabulary = Vocabulary()
        self._numbering = None if trained is None else Numbering(trained)
        super().__init__(config)

    # -- filtering ----------------------------------------------------------------------------

    def _data_filtering(self):
        before = len(self.inter_feat)
        super()._data_filtering()
        if len(self.inter_feat) < before:
            self.logger.info(
                f"{self.dataset_name}: filters left {len(self.inter_feat):,} of {before:,} "
                "interactions"
            )
        self._drop_rows_without_interactions()
        self._keep_exact_times()

    def _drop_rows_without_interactions(self):
        """Rank the items that occur: those of ``.item`` alone would only be noise in a ranking.

        RecBole ranks them if, and only if, a column of ``.item`` is loaded.
        """
        for field, name in ((self.uid_field, "user_feat"), (self.iid_field, "item_feat")):
            feat = getattr(self, name)
            if feat is None:
                continue
            present = self.inter_feat[field].unique()
            histories = field + self.config["LIST_SUFFIX"]  # of parts that are split already
            if self.part_names is not None and histories in self.inter_feat:
                cells = self.inter_feat[histories].to_list()
                present = pd.unique(np.concatenate([np.asarray(present, dtype=object), *cells]))
            keep = feat[field].isin(present)
            missing = len(present) - int(keep.sum())
            if missing:
                self.logger.warning(
                    f"{missing:,} of {len(present):,} {field}s in "
                    f"{self.dataset_name}.inter have no row in .{name[:4]}; "
                    "their features are empty"
                )
            if not keep.all():
                self.logger.info(
                    f"{int((~keep).sum()):,} rows of {self.dataset_name}.{name[:4]} have no "
                    "interactions and are left out"
                )
                setattr(self, name, feat[keep].reset_index(drop=True))

    def _keep_exact_times(self):
        """Keep times exactly: later steps turn them into float32, which cannot hold them."""
        self._time = None
        if self.time_field in self.inter_feat:
            self._time = self.inter_feat[self.time_field].to_numpy()
            if pd.isna(self._time).any():
                row = int(np.flatnonzero(pd.isna(self._time))[0])
                raise DataError(
                    f"{int(pd.isna(self._time).sum())} interactions have no {self.time_field} "
                    f"(the first: {self.uid_field} {self.inter_feat[self.uid_field].iloc[row]}); "
                    "their place in the sequence is unknown",
                    self.inter_path,
                )

    def _remove_duplication(self):
        keep = self.config["rm_dup_inter"]
        if keep is None:
            return
        self._check_field("uid_field", "iid_field")
        if self.time_field not in self.inter_feat:
            self.logger.warning(f"no {self.time_field}: rm_dup_inter uses the file order")
        self.inter_feat = drop_repeated_pairs(
            self.inter_feat, self.uid_field, self.iid_field, self.time_field, keep
        )

    def _filter_by_inter_num(self):
        """Drop users and items outside the intervals, until all that stay are inside."""
        intervals = {
            field: self._parse_intervals_str(self.config[key])
            for field, key in (
                (self.uid_field, "user_inter_num_interval"),
                (self.iid_field, "item_inter_num_interval"),
            )
        }
        if not len(self.inter_feat):
            raise ConfigError(
                f"val_interval {self.config['val_interval']!r} or filter_inter_by_user_or_item "
                f"leaves no interaction of {self.dataset_name}"
            )
        numbers = np.array([1, len(self.inter_feat)])
        asked = {
            field: interval
            for field, interval in intervals.items()
            if interval
            and not (len(interval) == 1 and self._within_intervals(numbers, interval).all())
        }
        if not asked:
            return
        alive = filter_by_counts(
            [self.inter_feat[field].cat.codes.to_numpy() for field in asked],
            [partial(self._within_intervals, intervals=interval) for interval in asked.values()],
        )
        if not alive.any():
            raise ConfigError(
                f"user_inter_num_interval {self.config['user_inter_num_interval']} and "
                f"item_inter_num_interval {self.config['item_inter_num_interval']} leave no "
                f"interaction of {self.dataset_name}"
            )
        self.inter_feat = self.inter_feat[alive]

    def _reset_index(self):
        for name in self.feat_name_list:
            feat = getattr(self, name)
            if feat.empty:
                raise ConfigError(f"the filters leave no row of {name} of {self.dataset_name}")
            setattr(self, name, feat.reset_index(drop=True))

    # -- ids and missing values ---------------------------------------------------------------

    def _remap_ID_all(self):  # noqa: N802
        super()._remap_ID_all()
        if self._numbering is not None:
            self._numbering.check()

    def _remap(self, remap_list):
        """Map tokens to ids from 1 by first appearance over all columns given, 0 for none.

        The same ids as RecBole's, unless a checkpoint's vocabulary says which; token columns are
        categories, so only codes are touched.
        """
        if not remap_list:
            return
        pieces = [_categories(feat[field], ftype) for feat, field, ftype in remap_list]
        tokens, codes = _shared_codes(pieces)
        flat = np.concatenate(codes) if len(codes) > 1 else codes[0]
        appeared = by_appearance(flat, len(tokens))
        raw, fields = tokens[appeared], list(dict.fromkeys(field for _, field, _ in remap_list))
        place = np.arange(len(raw))
        if self._numbering is not None:
            raw, place = self._numbering.arrange(fields, raw)
        # The last: of a missing token, code -1.
        id_of = np.zeros(len(tokens) + 1, dtype=smallest_type(len(raw)))
        id_of[appeared] = place + 1
        ids = id_of[flat]
        id_token = np.concatenate([np.array(["[PAD]"], dtype=object), raw.to_numpy(dtype=object)])
        self.vocabulary.add(fields, id_token[1:])
        self._set_tokens(fields, id_token)
        splits = np.cumsum([len(piece) for piece in codes])[:-1]
        for (feat, field, ftype), new_ids in zip(remap_list, np.split(ids, splits), strict=True):
            if ftype == FeatureType.TOKEN:
                feat[field] = new_ids
            else:
                ends = np.cumsum([len(cell) for cell in feat[field]])[:-1]
                cells = np.empty(len(feat), dtype=object)
                cells[:] = np.split(new_ids, ends)
                feat[field] = cells

    def _set_tokens(self, fields, id_token: np.ndarray) -> None:
        """Let fields have these tokens, by internal id, unless they have some."""
        token_id = TokenIds(id_token)
        for field in fields:
            self.field2id_token.setdefault(field, id_token)
            self.field2token_id.setdefault(field, token_id)

    def _fill_nan(self):
        """Fill by assignment; RecBole's ``fillna(inplace=True)`` does nothing in pandas 3."""
        for name in self.feat_name_list:
            feat = getattr(self, name)
            for field in feat:
                ftype = self.field2type[field]
                if ftype == FeatureType.TOKEN:
                    if feat[field].dtype.kind != "i":
                        feat[field] = feat[field].fillna(0).astype(np.int64)
                elif ftype == FeatureType.FLOAT:
                    if feat[field].isna().any():
                        self._check_not_empty(name, field, feat[field])
                        feat[field] = feat[field].fillna(feat[field].mean())
                else:
                    dtype = np.int64 if ftype == FeatureType.TOKEN_SEQ else np.float64
                    cells = np.empty(len(feat), dtype=object)
                    cells[:] = [
                        np.array([], dtype=dtype) if isinstance(cell, float) else cell
                        for cell in feat[field]
                    ]
                    feat[field] = cells

    def _check_not_empty(self, feat_name: str, field: str, values: pd.Series):
        """Refuse a column of numbers that has none to fill the gaps with, where a key names it."""
        key = next((key for key in TYPE_OF if field in names_in(self.config[key])), None)
        if key is not None and values.isna().all():
            raise DataError(
                f"column {field!r} is empty in every row, but {key} names it; fill it in, or "
                f"change {key}",
                Path(self.dataset_path, f"{self.dataset_name}.{feat_name.removesuffix('_feat')}"),
            )

    # -- tensors ------------------------------------------------------------------------------

    def _dataframe_to_interaction(self, data):
        """Convert columns by array; RecBole's way goes through Python numbers."""
        plain = {FeatureType.TOKEN: np.int64, FeatureType.FLOAT: np.float32}
        numerical = set(self.config["numerical_features"] or [])
        simple = [k for k in data if self.field2type[k] in plain and k not in numerical]
        tensors = {
            k: torch.from_numpy(data[k].to_numpy().astype(plain[self.field2type[k]]))
            for k in simple
        }
        rest = super()._dataframe_to_interaction(data[[k for k in data if k not in tensors]])
        tensors.update(rest.interaction)
        return Interaction({k: tensors[k] for k in data})


class TokenIds(UserDict):
    """Internal ids by token, a dict that is made when it is used; of tokens by internal id."""

    def __init__(self, tokens: np.ndarray):
        self._tokens = tokens

    @cached_property
    def data(self) -> dict[str, int]:  # noqa: D102
        return dict(zip(self._tokens.tolist(), range(len(self._tokens)), strict=True))


def _categories(column: pd.Series, ftype: FeatureType) -> pd.Categorical:
    """Tokens of a column as categories; those of sequence cells concatenated."""
    if ftype == FeatureType.TOKEN:
        return pd.Categorical(column)
    cells = column.to_list()
    return pd.Categorical(np.concatenate(cells) if cells else np.array([], dtype=object))


def _shared_codes(pieces: list[pd.Categorical]) -> tuple[pd.Index, list[np.ndarray]]:
    """All tokens, and the codes of each piece in terms of them; -1 where a token is missing."""
    if len(pieces) == 1:
        return pieces[0].categories, [pieces[0].codes]
    tokens = pd.Index(np.concatenate([piece.categories for piece in pieces])).unique()
    places = [np.append(tokens.get_indexer(piece.categories), -1) for piece in pieces]
    return tokens, [place[piece.codes] for place, piece in zip(places, pieces, strict=True)]
