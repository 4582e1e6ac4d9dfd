"""Interactions in a Parquet file, ``NAME.inter.parquet``, which takes the place of ``NAME.inter``.

Its columns have the names that the settings give (``USER_ID_FIELD`` ...). They are read and
converted one after another: the whole table is never in memory.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recbole_lite.data.atomic_reader import AtomicTable
from recbole_lite.data.column_roles import FIELDS, Source
from recbole_lite.data.source_tables import read_source_table
from recbole_lite.data.table_conversion import convert_interactions
from recbole_lite.utils.errors import DataError, one_line

SUFFIX = ".inter.parquet"


class _Columns:
    """A Parquet file as a table whose columns are read when they are used; the last one is kept."""

    def __init__(self, path: Path):
        self._path = path
        self._last: tuple[str, pa.ChunkedArray] | None = None
        try:
            self.column_names = pq.read_schema(path).names
        except (pa.ArrowException, OSError) as error:
            message = f"the file is no complete Parquet file ({one_line(error)}); write it again"
            raise DataError(message, path) from None

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        if self._last is None or self._last[0] != name:
            self._last = None  # before the next is read
            self._last = name, read_source_table(self._path, columns=[name])[name]
        return self._last[1]


def parquet_file(folder: str | Path, name: str) -> Path | None:
    """File of a data set's interactions; None: they are in no Parquet file.

    Raises
    ------
    DataError
        There is a ``NAME.inter`` as well.
    """
    path = Path(folder, name + SUFFIX)
    if not path.is_file():
        return None
    if (other := path.with_suffix("")).is_file():
        raise DataError(f"{other.name} is there, too; remove one of the two", path)
    return path


def read_parquet(
    path: Path, config, load: Collection[str] | None, unload: Collection[str] | None
) -> AtomicTable:
    """Read the columns of interactions that ``load_col`` names; None: all but `unload`.

    Raises
    ------
    DataError
        The file has no column of users or items, or values that cannot be used, with their row.
    """
    source = Source(_Columns(path), str(path), FIELDS, time_flag="", keeps_names=True)
    chosen = [
        column
        for column in source.table.column_names
        if (load is None or column in load) and column not in (unload or ())
    ]
    names = {role: config[key] for role, key in FIELDS.items()}
    for role in ("user", "item"):
        source.check_column(names[role], FIELDS[role])
    roles = {role: name for role, name in names.items() if name in chosen}
    keep = [column for column in chosen if column not in roles.values()]
    ids = {role: names[role] for role in ("user", "item")}
    made = convert_interactions(source, {**roles, **ids}, names, keep=keep)
    return AtomicTable(path, made.types, made.frame)
