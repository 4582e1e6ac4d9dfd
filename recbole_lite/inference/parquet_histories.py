"""Histories in Parquet files."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recbole_lite.data.arrow_columns import is_list, is_text
from recbole_lite.inference.history_files import INPUT_COLUMNS, split_ids
from recbole_lite.utils.errors import DataError, listed, one_line


def read_parquet(file, separator: str, name: str) -> Iterator[tuple[int, str, list[str]]]:
    """Read rows as :func:`.history_files.read_histories` describes them.

    Yields
    ------
    (int, str, list of str)
        Row, from 1, user and raw ids.

    Raises
    ------
    DataError
        The file is no Parquet, a column is missing or of another type, or a value is missing.
    """
    try:
        table = pq.ParquetFile(file)
        in_lists, line = _check_columns(table.schema_arrow, name), 0
        for batch in table.iter_batches(batch_size=4096, columns=list(INPUT_COLUMNS)):
            users, histories = (batch.column(column) for column in INPUT_COLUMNS)
            texts = users.cast(pa.string()).to_pylist()
            rows = _id_lists(histories) if in_lists else _split_texts(histories, separator)
            for user, ids in zip(texts, rows, strict=True):
                line += 1
                if user is None or ids is None or None in ids:
                    raise DataError("a value is missing (null)", name, line)
                yield line, user, ids
    except pa.ArrowException as error:
        raise DataError(f"cannot be read as Parquet: {one_line(error)}", name) from None


def _id_lists(column: pa.Array) -> Iterator[list | None]:
    """Rows of a column of lists; converted as one column, which is faster than list by list."""
    values, begin = column.flatten().cast(pa.string()).to_pylist(), 0
    for length in pc.list_value_length(column).to_pylist():
        yield None if length is None else values[begin : begin + length]
        begin += length or 0


def _split_texts(column: pa.Array, separator: str) -> Iterator[list | None]:
    for text in column.cast(pa.string()).to_pylist():
        yield None if text is None else split_ids(text, separator)


def _check_columns(schema, name: str) -> bool:
    """Refuse a file without the columns, or with other types; whether histories are lists."""
    for column in INPUT_COLUMNS:
        if column not in schema.names:
            raise DataError(
                f"no column {column!r}; a file of histories has user_id and history, this one has "
                f"{listed(schema.names) or 'nothing'}",
                name,
            )
    user, history = (schema.field(column).type for column in INPUT_COLUMNS)
    if not _holds_ids(user, numbers=True):
        raise DataError(f"column 'user_id' holds {user}; it must hold texts or whole numbers", name)
    in_lists = is_list(history)
    if not _holds_ids(history.value_type if in_lists else history, numbers=in_lists):
        raise DataError(
            f"column 'history' holds {history}; it must hold lists of texts or whole numbers, or "
            "texts with a separator",
            name,
        )
    return in_lists


def _holds_ids(kind, numbers: bool) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return is_text(kind) or (numbers and pa.types.is_integer(kind))
