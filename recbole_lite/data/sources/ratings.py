"""Reading a text table of user, item, rating and time, a part at a time."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa

from recbole_lite.data.atomic_columns import categories
from recbole_lite.data.sources.converter import INTER_TYPES, Table
from recbole_lite.utils.errors import DataError

CHUNK_ROWS = 500_000
IDS = ("user_id", "item_id")


def read_ratings(
    stream: BinaryIO, name: str, sep: str, columns: Sequence[str], header: Sequence[str] = ()
) -> Table:
    """Read interactions in the order of the file, in which nothing is quoted.

    Parameters
    ----------
    stream : BinaryIO
    name : str
        Of the file, for messages.
    sep : str
        One character between fields.
    columns : sequence of str
        ``user_id``, ``item_id``, ``rating``, ``timestamp`` in the order of the file.
    header : sequence of str
        Names that the first line must hold; none: the first line is a row.

    Returns
    -------
    Table
        Ids are categories of strings; times are int64; ratings int64 where all are whole.

    Raises
    ------
    DataError
        A line has other fields than these.
    """
    ids: dict[str, list[pa.Array]] = {field: [] for field in IDS}
    numbers: dict[str, list[np.ndarray]] = {"rating": [], "timestamp": []}
    if header:
        _check_header(stream.readline(), name, sep, header)
    try:
        for chunk in pd.read_csv(
            stream,
            sep=sep,
            header=None,
            names=list(columns),
            dtype={"user_id": object, "item_id": object, "timestamp": "int64"},
            index_col=False,
            quoting=csv.QUOTE_NONE,
            keep_default_na=False,
            na_values={"rating": [""]},
            chunksize=CHUNK_ROWS,
        ):
            _check_complete(chunk, name, 2 if header else 1)
            for field, cells in ids.items():
                cells.append(pa.array(chunk[field], pa.string()))
            for field, parts in numbers.items():
                parts.append(pd.to_numeric(chunk[field]).to_numpy())
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"a table of {', '.join(columns)} expected: {error}", name) from error
    if not sum(map(len, numbers["timestamp"])):
        raise DataError("no rows in it", name)
    frame = pd.DataFrame({field: categories(cells) for field, cells in ids.items()})
    for field, parts in numbers.items():
        frame[field] = np.concatenate(parts)
    return Table(INTER_TYPES, frame)


def _check_header(line: bytes, name: str, sep: str, header: Sequence[str]) -> None:
    found = line.decode("utf-8-sig", "replace").strip()
    if found != sep.join(header):
        raise DataError(f"header {sep.join(header)!r} expected, found {found[:200]!r}", name, 1)


def _check_complete(chunk: pd.DataFrame, name: str, first_line: int) -> None:
    empty = chunk["rating"].isna() | (chunk["user_id"] == "") | (chunk["item_id"] == "")
    if empty.any():
        line = int(chunk.index[empty.to_numpy().argmax()]) + first_line
        raise DataError("a value is missing", name, line)
