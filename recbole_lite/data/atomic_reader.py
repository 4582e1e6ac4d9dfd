"""RecBole's atomic files: a strict reader.

An atomic file is UTF-8 text. Its first line names the fields as ``name:type``,
separated by tabs; every further line is a row. Nothing is quoted: a ``"`` is a
character like any other, and only a line feed ends a line. Whatever departs from
this is a `DataError` that names the line.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa

from recbole_lite.data.atomic_checks import Block, Layout, check_dialect, quote
from recbole_lite.data.atomic_columns import FINISH, parse_block
from recbole_lite.data.atomic_header import check_header
from recbole_lite.utils.errors import DataError, unreadable

BLOCK_BYTES = 4 << 20  # parsed at a time by each thread
HEADER_BYTES = 1 << 20  # a longer first line is no header
LINE_BYTES = 1 << 28  # a longer row is no row


@dataclass(frozen=True, eq=False)
class AtomicTable:
    """Fields of an atomic file that were loaded."""

    path: Path
    types: dict[str, str]  # in file order
    frame: pd.DataFrame  # one column per field, rows in file order (row i is line i + 2)

    def select(self, fields: Collection[str]) -> AtomicTable:
        """Only some of the fields; the values are shared."""
        types = {field: self.types[field] for field in fields}
        return AtomicTable(self.path, types, self.frame[list(types)].copy(deep=False))


def read_header(
    path: str | Path, *, separator: str = "\t", encoding: str = "utf-8"
) -> dict[str, str]:
    """Fields and types, in file order, that the first line of an atomic file names.

    `separator` and `encoding` are those of :func:`read_atomic`.

    Raises
    ------
    DataError
        If the file cannot be read or its first line is no header.
    """
    check_dialect(separator, encoding)
    path = Path(path)
    with _open_binary(path) as file:
        types, _ = _header(file, path, separator, encoding)
    return types


def read_atomic(
    path: str | Path,
    *,
    columns: Collection[str] | None = None,
    required: Collection[str] = (),
    unique: str | None = None,
    separator: str = "\t",
    seq_separator: str = " ",
    encoding: str = "utf-8",
) -> AtomicTable:
    """Read an atomic file, refusing whatever is not exactly one.

    Parameters
    ----------
    path : str or Path
        The file.
    columns : collection of str, optional
        Fields to load; all by default. Rows are checked for their number of columns
        either way.
    required : collection of str
        Fields whose cells must not be empty, loaded or not.
    unique : str, optional
        Field whose values must not repeat, loaded or not.
    separator : str
        One character between fields.
    seq_separator : str
        Between the elements of a sequence.
    encoding : str
        Of the file; one that keeps ASCII as it is.

    Returns
    -------
    AtomicTable
        Its frame holds, by type of field,

        - token: ``category`` of str in order of first appearance, values exactly as
          written, an empty cell missing;
        - token_seq: str as written, not split, an empty cell ``""``;
        - float: int64 if every cell is an integer that fits, else float64, an empty
          cell NaN;
        - float_seq: one float64 array per row, of length 0 for an empty cell.

    Raises
    ------
    DataError
        Naming file and line, what was found and what to do.
    """
    check_dialect(separator, encoding, seq_separator)
    path = Path(path)
    with _open_binary(path) as file, ThreadPoolExecutor(pa.cpu_count()) as pool:
        types, offset = _header(file, path, separator, encoding)
        layout = Layout(path, types, separator, seq_separator, encoding)
        required, loaded = _choose_fields(layout, columns, required, unique)
        fields = [field for field in types if field in {*loaded, *required, unique}]
        parse = partial(parse_block, layout=layout, fields=fields, required=required)
        blocks = list(pool.map(parse, _blocks(file, offset, path)))
        if not blocks:
            raise DataError("the file has a header and no rows; add rows", path, 1)
        n_rows = sum(rows for rows, _ in blocks)
        parts = {field: [cells[field] for _, cells in blocks] for field in fields}
        done = pool.map(lambda field: FINISH[types[field]](parts.pop(field)), fields)
        del blocks
        series = dict(zip(fields, done, strict=True))
    pa.default_memory_pool().release_unused()
    _check_unique(series.get(unique), layout, unique)
    frame = pd.DataFrame({field: series[field] for field in loaded}, index=pd.RangeIndex(n_rows))
    return AtomicTable(path, {field: types[field] for field in loaded}, frame)


@contextmanager
def _open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open file for reading bytes; what the system objects to becomes a `DataError`."""
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise unreadable(error, path) from error


def _header(
    file: BinaryIO, path: Path, separator: str, encoding: str
) -> tuple[dict[str, str], int]:
    """Fields with their types, and the length of the header in bytes."""
    line = file.readline(HEADER_BYTES)
    if not line:
        raise DataError("the file is empty; it needs a header and rows", path)
    if len(line) == HEADER_BYTES and b"\r" not in line and b"\0" not in line:
        raise DataError(f"the first line is no header: longer than {HEADER_BYTES} bytes", path, 1)
    return check_header(line.removesuffix(b"\n"), path, separator, encoding), len(line)


def _choose_fields(
    layout: Layout, columns: Collection[str] | None, required: Collection[str], unique: str | None
) -> tuple[list[str], list[str]]:
    """Return required fields and fields to load, in file order, all in the header."""
    wanted = layout.types if columns is None else _names(columns)
    needed = _names(required)
    known = ", ".join(layout.types)
    for field in [*wanted, *needed, *([] if unique is None else [unique])]:
        if field not in layout.types:
            raise DataError(f"there is no field {quote(field)}; fields are {known}", layout.path, 1)
    if unique is not None and layout.types[unique] == "float_seq":
        message = f"{layout.label(unique)} cannot identify rows; change its type to token"
        raise DataError(message, layout.path, 1)
    fields = list(layout.types)
    return [name for name in fields if name in needed], [name for name in fields if name in wanted]


def _names(names: Collection[str]) -> tuple[str, ...]:
    """Take a bare string as one name, not as its letters."""
    return (names,) if isinstance(names, str) else tuple(names)


def _blocks(file: BinaryIO, offset: int, path: Path) -> Iterator[Block]:
    """Rest of the file, in whole lines."""
    line = 2
    while data := file.read(BLOCK_BYTES):
        if not data.endswith(b"\n"):
            data += file.readline(LINE_BYTES)
        length = len(data)
        if not data.endswith(b"\n"):
            if length >= LINE_BYTES:
                message = f"the line is longer than {LINE_BYTES >> 20} MiB; end each row with a LF"
                raise DataError(message, path, line + data.count(b"\n"))
            data += b"\n"
        yield Block(data, line, offset)
        line += np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n"))
        offset += length


def _check_unique(series: pd.Series | None, layout: Layout, field: str | None) -> None:
    """Refuse values that repeat; empty cells are no values."""
    if series is None:
        return
    if isinstance(series.dtype, pd.CategoricalDtype):
        rows = np.flatnonzero(series.cat.codes >= 0)
    else:
        rows = np.flatnonzero(series.notna() & (series != ""))
    values = series.iloc[rows]
    repeated = values.duplicated().to_numpy()
    if not repeated.any():
        return
    row = int(rows[repeated.argmax()])
    value = series.iloc[row]
    first = int(rows[(values == value).to_numpy().argmax()])
    raise DataError(
        f"{layout.label(field)} {quote(str(value))} stands on line {first + 2} already; "
        "values of this field must not repeat: remove one of the two lines",
        layout.path,
        row + 2,
    )
