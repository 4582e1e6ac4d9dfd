"""Reading atomic files into RecBole's datasets with the strict reader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from recbole.utils import FeatureSource, FeatureType

from recbole_lite.data.atomic_reader import AtomicTable, read_atomic, read_header
from recbole_lite.data.column_settings import (
    TYPE_OF,
    check_columns,
    check_load_columns,
    check_types,
)
from recbole_lite.data.parquet_interactions import SUFFIX as PARQUET
from recbole_lite.data.parquet_interactions import parquet_file, read_parquet
from recbole_lite.data.presplit import PartsMixin
from recbole_lite.data.sources.prepare_dataset import ensure_dataset
from recbole_lite.utils.dataset_names import find_parts
from recbole_lite.utils.errors import DataError

# Their columns meet in one batch, so each needs a name of its own.
_JOINED = {FeatureSource.INTERACTION, FeatureSource.USER, FeatureSource.ITEM}


class ReadingMixin(PartsMixin):
    """Overrides of RecBole's Dataset that read files; which and why: docs/recbole.md."""

    def _load_data(self, token, dataset_path):
        check_load_columns(self.config)
        if self.tables is not None:
            self._load_tables(token, dataset_path)
            return
        if self.benchmark_filename_list is None:
            _check_for_parts(Path(dataset_path), token)
            if parquet_file(dataset_path, token) is None:
                ensure_dataset(token, Path(dataset_path).parent, log=self.logger.info)
        elif not Path(dataset_path).is_dir():
            raise DataError("there is no such folder; check dataset and data_path", dataset_path)
        super()._load_data(token, dataset_path)

    def _load_tables(self, token, dataset_path):
        """Use the tables in memory in place of files."""
        for source, name in (
            (FeatureSource.INTERACTION, "inter_feat"),
            (FeatureSource.USER, "user_feat"),
            (FeatureSource.ITEM, "item_feat"),
        ):
            table = self.tables.get(source.value)
            feat = None if table is None else self._load_feat(table.path, source)
            setattr(self, name, feat)
        self._load_additional_feat(token, dataset_path)

    def _init_alias(self):
        check_columns(self)  # all files are read, and nothing has been made of them
        super()._init_alias()

    def _load_additional_feat(self, token, dataset_path):
        for suffix in self.config["additional_feat_suffix"] or []:
            path = Path(dataset_path, f"{token}.{suffix}")
            if not path.is_file():
                raise DataError(
                    "additional_feat_suffix names this file, but it does not exist", path
                )
        super()._load_additional_feat(token, dataset_path)

    def _load_feat(self, filepath, source):
        load, unload = self._get_load_and_unload_col(source)
        if load == set():
            return None
        memory = (self.tables or {}).get(getattr(source, "value", source))
        if Path(filepath).name.endswith(PARQUET):
            memory = read_parquet(Path(filepath), self.config, load, unload)
        header = read_header(filepath, **self._format) if memory is None else memory.types
        if source == FeatureSource.INTERACTION:
            load = self._with_lists(load, header)
        columns = [
            field
            for field in header
            if (load is None or field in load) and (unload is None or field not in unload)
        ]
        ids = self._id_fields(source)
        self._check_columns(filepath, header, columns, (load, unload), ids)
        typed = {key: self.config[key] for key in TYPE_OF}
        check_types(Path(filepath), {field: header[field] for field in columns}, typed)
        if not columns:
            self.logger.warning(f"{filepath}: none of its columns is in load_col")
            return None
        if memory is not None:
            table = memory.select(columns)
        else:
            unique = ids[0] if source in (FeatureSource.USER, FeatureSource.ITEM) else None
            table = self._read_file(filepath, columns, ids, unique)
        self._register_fields(table, source)
        return self._split_sequences(table)

    @property
    def _format(self) -> dict[str, str]:
        return {
            "separator": self.config["field_separator"],
            "encoding": self.config["encoding"] or "utf-8",
        }

    def _read_file(self, path, columns, required, unique) -> AtomicTable:
        return read_atomic(
            path,
            columns=columns,
            required=required,
            unique=unique,
            seq_separator=self.config["seq_separator"],
            **self._format,
        )

    def _id_fields(self, source) -> list[str]:
        if source == FeatureSource.INTERACTION:
            return [self.uid_field, self.iid_field]
        if source == FeatureSource.USER:
            return [self.uid_field]
        return [self.iid_field] if source == FeatureSource.ITEM else []

    def _check_columns(self, filepath, header, columns, named, ids):
        missing = [field for field in ids if field not in columns]
        if missing:
            raise DataError(
                f"no column {missing[0]!r} among those read ({', '.join(columns) or 'none'}); "
                f"the file has {', '.join(header)}. Set USER_ID_FIELD, ITEM_ID_FIELD or load_col",
                filepath,
                1,
            )
        for key, names in zip(("load_col", "unload_col"), named, strict=True):
            absent = sorted((names or set()) - set(header))
            if absent:
                self.logger.warning(
                    f"{filepath}: {key} names {', '.join(absent)}, "
                    f"but the file has only {', '.join(header)}"
                )

    def _register_fields(self, table: AtomicTable, source):
        for field, name in table.types.items():
            ftype = FeatureType(name)
            other = self.field2source.get(field, source)
            joined = {other, source} <= _JOINED and field not in (self.uid_field, self.iid_field)
            if other != source and joined:
                raise DataError(
                    f"column {field!r} is in .{other.value} too, and columns of "
                    "the files of a data set must have different names; rename one of them, or "
                    "leave one out (load_col, unload_col)",
                    table.path,
                    1,
                )
            self.field2source[field] = source
            self.field2type[field] = ftype
            if not name.endswith("seq"):
                self.field2seqlen[field] = 1
            if "float" in name:
                self.field2bucketnum[field] = 2

    def _split_sequences(self, table: AtomicTable) -> pd.DataFrame:
        """Sequence cells as arrays, cut to ``seq_len``, as RecBole's later steps want them."""
        frame = table.frame
        for field, name in table.types.items():
            if not name.endswith("seq"):
                continue
            values = frame[field]
            if name == FeatureType.TOKEN_SEQ.value:
                separator = self.config["seq_separator"]
                values = [
                    np.array([token for token in cell.split(separator) if token], dtype=object)
                    for cell in values
                ]
            limit = (self.config["seq_len"] or {}).get(field)
            cells = np.empty(len(frame), dtype=object)
            cells[:] = [cell[:limit] for cell in values]
            frame[field] = cells
            self.field2seqlen[field] = max(map(len, cells), default=0)
        return frame

    def item_header(self) -> tuple[Path, dict[str, str]]:
        """Place of the items' table, and its fields with their types; {}: there is none."""
        if self.tables is not None:
            table = self.tables.get("item")
            return (Path("items"), {}) if table is None else (table.path, table.types)
        path = Path(self.dataset_path, f"{self.dataset_name}.item")
        return path, read_header(path, **self._format) if path.is_file() else {}

    def item_text_fields(self) -> list[str]:
        """Fields of the items' table that may be read as text: all but ids and numbers' lists."""
        _, header = self.item_header()
        return [f for f, kind in header.items() if f != self.iid_field and kind != "float_seq"]

    def item_text_columns(self, fields: list[str] | None = None) -> dict[str, list[str]]:
        """Raw text of items: field of ``.item`` -> one string per internal item id.

        It is "" for padding (id 0) and for items that have no row. Default of `fields`: all but the
        item id and sequences of numbers.

        Raises
        ------
        DataError
            There is no ``.item`` file, it lacks one of the fields, or one is no text.
        """
        path, header = self.item_header()
        if not header:
            raise DataError("the Item LLM needs the items' text, and this file is missing", path)
        vectors = [field for field in fields or [] if header.get(field) == "float_seq"]
        if vectors:
            raise DataError(
                f"column {vectors[0]!r} has type float_seq, numbers and no text; name other "
                "columns (item_text_fields, title_field)",
                path,
                1,
            )
        fields = list(fields or self.item_text_fields())
        absent = [field for field in fields if field not in header]
        if absent:
            raise DataError(
                f"no column {absent[0]!r} (item_text_fields); it has {', '.join(header)}", path, 1
            )
        if self.tables is not None:
            table = self.tables["item"]
        else:
            ids = [self.iid_field]
            table = self._read_file(path, [*ids, *fields], ids, self.iid_field)
        by_token = table.frame.set_index(table.frame[self.iid_field].astype(object))[fields]
        rows = by_token.reindex(self.field2id_token[self.iid_field])
        return {field: [_as_text(value) for value in rows[field]] for field in fields}


def _check_for_parts(folder: Path, name: str) -> None:
    parts = find_parts(folder, name)
    single = (folder / f"{name}.inter", folder / f"{name}{PARQUET}")
    if "train" in parts and not any(path.is_file() for path in single):
        raise DataError(
            f"there is no such file; if the parts {', '.join(parts)} in its folder are the split "
            f"to use, set benchmark_filename: [{', '.join(parts)}]",
            folder / f"{name}.inter",
        )


def _as_text(value) -> str:
    return value if isinstance(value, str) else "" if pd.isna(value) else str(value)
