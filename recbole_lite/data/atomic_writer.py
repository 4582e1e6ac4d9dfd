"""Write atomic files that `read_atomic` reads back as they were."""

from __future__ import annotations

import math
import numbers
import re
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_lite.data.atomic_checks import quote
from recbole_lite.data.atomic_header import check_header
from recbole_lite.utils.errors import DataError
from recbole_lite.utils.files import write_atomically

CHUNK_ROWS = 100_000


def write_atomic(path: str | Path, types: dict[str, str], frame: pd.DataFrame) -> None:
    """Write a frame as an atomic file in UTF-8, separated by tabs.

    The file appears under its name when it is complete, not before.

    Parameters
    ----------
    path : str or Path
        The file; one that exists is replaced.
    types : dict of str to str
        Field -> type, in the order to write.
    frame : DataFrame
        The columns that `types` names and no others. Tokens are str or int, floats are
        numbers, a token_seq is one str, a float_seq one array of numbers; a missing
        value becomes an empty cell.

    Raises
    ------
    DataError
        If the reader would not give a value back: it holds the separator, a line end or
        NUL, is no finite number, or is of another kind than its field.
    """
    path = Path(path)
    header = "\t".join(f"{field}:{kind}" for field, kind in types.items())
    _check_header(path, types, header)
    _check_frame(path, types, frame)

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(header.encode() + b"\n")
            for start in range(0, len(frame), CHUNK_ROWS):
                part, line = frame.iloc[start : start + CHUNK_ROWS], start + 2
                cells = {
                    field: _cells(part[field].tolist(), f"{field}:{kind}", path, line)
                    for field, kind in types.items()
                }
                file.write(_rows(cells, path, line))

    try:
        write_atomically(path, write)
    except OSError as error:
        message = f"the file cannot be written: {error.strerror or error}"
        raise DataError(message, path) from error


def _check_header(path: Path, types: dict[str, str], header: str) -> None:
    """Refuse names that would read back as something else."""
    problem = next(filter(None, map(_cell_problem, types)), None)
    if problem:
        raise DataError(f"a name of a field {problem}", path, 1)
    check_header(header.encode(), path, "\t", "utf-8")


def _check_frame(path: Path, types: dict[str, str], frame: pd.DataFrame) -> None:
    if set(frame.columns) != set(types) or not frame.columns.is_unique:
        raise DataError(
            f"the frame has the columns {list(frame.columns)} where types names {list(types)}; "
            "give a type for every column and one column for every type",
            path,
        )
    if frame.empty:
        raise DataError("there are no rows to write; the reader refuses a header alone", path)


def _cells(values: list, label: str, path: Path, line: int) -> list[str]:
    """Cells of one column, of which the first stands on `line`."""
    kind = label.rpartition(":")[2]
    kinds_of_value = set(map(type, values))
    if kinds_of_value == {str} and kind in ("token", "token_seq"):
        return values
    if kinds_of_value == {int} and kind == "token":
        return list(map(str, values))
    cells = []
    for row, value in enumerate(values):
        try:
            cells.append("" if _is_missing(value) else _CELL_OF[kind](value))
        except (TypeError, ValueError, OverflowError):
            found = repr(value)[:60]
            message = f"{label} holds {found}; it takes {_TAKES[kind]}: convert it"
            raise DataError(message, path, line + row) from None
    return cells


def _is_missing(value: object) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _token(value: object) -> str:
    return str(_integer(value)) if not isinstance(value, str) else value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError
    return int(value)


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError
    if not math.isfinite(value):
        raise ValueError
    return str(int(value)) if isinstance(value, numbers.Integral) else repr(float(value))


def _vector(value: object) -> str:
    array = np.asarray(value)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iuf"):
        raise TypeError
    return " ".join(map(_number, array.tolist()))


_CELL_OF = {"token": _token, "token_seq": _text, "float": _number, "float_seq": _vector}
_TAKES = {
    "token": "str or int",
    "token_seq": "one str, already joined",
    "float": "finite numbers",
    "float_seq": "one-dimensional arrays of finite numbers",
}


def _rows(cells: dict[str, list[str]], path: Path, line: int) -> bytes:
    """Rows as they stand in the file, of which the first stands on `line`."""
    rows = ["\t".join(row) for row in zip(*cells.values(), strict=True)]
    text = "\n".join(rows) + "\n"
    for row, content in enumerate(rows):
        if not content.strip(" \t"):
            message = "the row has no value, and the reader refuses blank lines; drop the row"
            raise DataError(message, path, line + row)
    separators = text.count("\t") == len(rows) * (len(cells) - 1)
    if separators and text.count("\n") == len(rows) and not re.search("[\r\0\ud800-\udfff]", text):
        return text.encode()
    for row, values in enumerate(zip(*cells.values(), strict=True)):
        for field, value in zip(cells, values, strict=True):
            if problem := _cell_problem(value):
                raise DataError(f"{field} {problem}", path, line + row)
    raise AssertionError("a forbidden character is in the text and in none of its cells")


def _cell_problem(text: str) -> str | None:
    """Say which character of a cell the file cannot hold, None if there is none."""
    found = re.search("[\t\n\r\0\ud800-\udfff]", text)
    if not found:
        return None
    return f"holds {found.group()!r} in {quote(text)}, which no cell can hold; replace it"
