"""Files of histories: CSV and Parquet; local files, folders and patterns, and fsspec's URLs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import fsspec

from recbole_lite.utils.errors import DataError, one_line
from recbole_lite.utils.files import STANDARD, spooled

INPUT_COLUMNS = ("user_id", "history")
PARQUET = (".parquet", ".pq")
_ENDINGS = (".csv", *PARQUET)  # of what is read in a folder


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL of fsspec, ``s3://bucket/key``."""
    return "://" in str(path)


def file_system(path: str | Path) -> tuple[fsspec.AbstractFileSystem, str]:
    """File system of a local path or URL, and the path in it.

    Raises
    ------
    DataError
        The protocol is unknown, or its package is not installed.
    """
    try:
        return fsspec.core.url_to_fs(str(path))
    except (ImportError, ValueError) as error:
        raise DataError(
            f"cannot be opened ({one_line(error)}); install the package of fsspec for this kind "
            "of storage, or use a local path",
            path,
        ) from None


@contextmanager
def history_files(source: str | Path) -> Iterator[tuple[list[str], str | None]]:
    """Files that a source consists of, in the order of their names.

    Parameters
    ----------
    source : str or Path
        A file, a folder, a pattern such as ``part-*.parquet``, or a URL of these; ``-`` is
        standard input, pipes work as well (CSV; a copy is read).

    Yields
    ------
    (list of str, str or None)
        Paths or URLs, and what messages call a single local file or stream.

    Raises
    ------
    DataError
        A folder without files of histories, or a pattern that no file matches.
    """
    if is_url(source) or any(char in str(source) for char in "*?[") or Path(source).is_dir():
        yield _listed_files(str(source)), None
        return
    with spooled(source) as path:
        yield [str(path)], "standard input" if str(source) == STANDARD else str(source)


def _listed_files(source: str) -> list[str]:
    system, path = file_system(source)
    try:
        if system.isdir(path):
            names = [name for name in system.ls(path, detail=False) if _is_data(name)]
        elif system.exists(path):
            names = [path]
        else:
            names = system.glob(path)
    except Exception as error:  # of the storage: many classes
        raise DataError(f"cannot be listed: {one_line(error)}", source) from None
    if not names:
        raise DataError(f"no file of histories there ({', '.join(_ENDINGS)})", source)
    return [system.unstrip_protocol(name) if is_url(source) else name for name in sorted(names)]


def _is_data(name: str) -> bool:
    return name.lower().endswith(_ENDINGS) and not Path(name).name.startswith((".", "_"))


def read_histories(
    files: Sequence[str], separator: str, shown: str | None = None
) -> Iterator[tuple[str, int, str, list[str]]]:
    """Read the rows of files of histories.

    Parameters
    ----------
    files : sequence of str
        Those that end in ``.parquet`` or ``.pq`` are Parquet: ``user_id`` of texts or whole
        numbers, ``history`` of lists of these, or of texts as in CSV. Others are CSV in UTF-8.
        Further columns are ignored.
    separator : str
        Between the ids of a history that is a text.
    shown : str, optional
        What messages call the file.

    Yields
    ------
    (str, int, str, list of str)
        File, line (of Parquet the row, from 1), user and raw ids, of which there is one at least.

    Raises
    ------
    DataError
        With the file, and the line or column.
    """
    for path in files:
        name = shown or path
        read = _parquet_reader() if path.lower().endswith(PARQUET) else _read_csv
        system, place = file_system(path)
        try:
            with system.open(place, "rb") as file:
                for line, user, history in read(file, separator, name):
                    if not history:
                        raise DataError(f"the history of user {user!r} is empty", name, line)
                    yield name, line, user, history
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror or one_line(error)}", name) from None


def _parquet_reader():
    from recbole_lite.inference.parquet_histories import read_parquet  # a service has no pyarrow

    return read_parquet


def split_ids(text: str, separator: str) -> list[str]:
    """Ids of a history that is a text."""
    return [one for part in text.split(separator) if (one := part.strip())]


# -- CSV --------------------------------------------------------------------------------------


def _read_csv(file, separator: str, name: str) -> Iterator[tuple[int, str, list[str]]]:
    reader = csv.reader(io.TextIOWrapper(file, encoding="utf-8-sig", newline=""), strict=True)
    try:
        header = next(reader, [])
        absent = [column for column in INPUT_COLUMNS if column not in header]
        if absent:
            raise DataError(
                f"no column {absent[0]!r}; the header must name user_id and history, it has "
                f"{', '.join(header) or 'nothing'}",
                name,
                1,
            )
        user_at, history_at = (header.index(column) for column in INPUT_COLUMNS)
        for row in reader:
            if not row:
                continue  # an empty line, as at the end of many files
            if len(row) != len(header):
                raise DataError(
                    f"{len(row)} cells, the header has {len(header)}", name, reader.line_num
                )
            yield reader.line_num, row[user_at], split_ids(row[history_at], separator)
    except UnicodeDecodeError as error:
        line = reader.line_num + 1
        raise DataError(
            f"not UTF-8 text (byte {error.object[error.start]:#04x} in line {line} or after); "
            "convert it, e.g. with iconv",
            name,
        ) from None
    except csv.Error as error:
        raise DataError(f"not valid CSV: {error}", name, reader.line_num) from None
