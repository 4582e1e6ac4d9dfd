"""Tables of foreign files: CSV, TSV and the like, JSON lines, Parquet, each also gzipped.

Arrow parses a file in one pass. Only when that fails, or when the text looks suspicious, a slow
second pass finds the line to report.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from recbole_lite.data.atomic_checks import quote
from recbole_lite.utils.errors import ConfigError, DataError, one_line, unreadable
from recbole_lite.utils.suggestions import suggest

MAX_LINE = 16 << 20  # bytes; also the longest row, of several lines in quotes
PARQUET, JSON_LINES = (".parquet", ".pq"), (".jsonl", ".ndjson", ".json")
SEPARATORS = (",", "\t", ";", "|")
_INDEX = re.compile(r"__index_level_\d+__")  # what pandas adds to a Parquet file
_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_SIGNATURES = (
    (b"\xff\xfe", "the file is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW"),
    (b"\xfe\xff", "the file is UTF-16; convert it: iconv -f UTF-16 -t UTF-8 OLD > NEW"),
    (b"PK\x03\x04", "the file is a zip archive or a workbook; unpack it, or save it as CSV"),
    (b"PAR1", "the file is Parquet; give it a name that ends in .parquet"),
)


def read_source_table(
    path: str | Path, *, separator: str | None = None, columns: Collection[str] | None = None
) -> pa.Table:
    """Read a table that another program wrote.

    Parameters
    ----------
    path : str or Path
        The file. Its ending tells its format: ``.parquet``; ``.jsonl``, ``.ndjson`` or ``.json``
        (one object per line); anything else is text with a header and quotes as in RFC 4180.
        Each may be followed by ``.gz``.
    separator : str, optional
        One character between the fields of a text; default: a tab for ``.tsv``, otherwise the
        one of ``, tab ; |`` that divides the header into most fields.
    columns : collection of str, optional
        Columns to read, which must hold single values; all by default. Those without a name, as
        pandas writes its index, are never read.

    Returns
    -------
    pyarrow.Table
        Columns in file order. Cells of a text, and strings of JSON, are strings exactly as
        written, an empty cell ``""``; other columns have the type of the file.

    Raises
    ------
    DataError
        The file is no such table; the message names the file, the line where it is known, what
        was found and what to do.
    """
    path = Path(path)
    ending = file_ending(path)
    wanted = None if columns is None else set(columns)
    try:
        if ending in PARQUET:
            table = _read_parquet(path, wanted)
        elif ending in JSON_LINES:
            table = _read_json(path, wanted)
        else:
            table = _read_text(path, separator or ("\t" if ending == ".tsv" else None), wanted)
    except OSError as error:
        raise unreadable(error, path) from None
    except pa.ArrowException as error:
        raise DataError(f"the file cannot be read: {one_line(error)}", path) from None
    if not table.num_rows:
        raise DataError("the file has no rows; add rows", path)
    if wanted is not None:
        check_single_values(table, path)
    return table


def file_ending(path: Path) -> str:
    """Ending of a file's name, in lower case, before a ``.gz``."""
    return Path(path.name.lower().removesuffix(".gz")).suffix


def check_single_values(table: pa.Table, path: Path) -> None:
    """Refuse columns of lists or objects.

    Raises
    ------
    DataError
        Naming the first such column.
    """
    for field in table.schema:
        if pa.types.is_nested(field.type):
            raise DataError(
                f"column {quote(field.name)} holds {field.type} where single values are needed; "
                "name another column, or convert this one to text",
                path,
            )


# --- bytes ---------------------------------------------------------------------------------


class _Source(io.RawIOBase):
    """Bytes of a text, unpacked; refuses other files, NUL bytes and lines without end."""

    def __init__(self, path: Path):
        super().__init__()
        self.path = path
        self.file = gzip.open(path) if _is_packed(path) else path.open("rb")  # noqa: SIM115
        self.quotes = self.lines = self.size = self.length = 0

    def readable(self) -> bool:
        """Answer that it can be read."""
        return True

    def readinto(self, buffer) -> int:
        """Read a part and check it."""
        with _unpacking(self.path):
            data = self.file.read(len(buffer))
        if not self.size:
            self._check_start(data)
        self._check_lines(data)
        self.size += len(data)
        self.quotes += data.count(b'"')
        buffer[: len(data)] = data
        return len(data)

    def _check_start(self, data: bytes) -> None:
        if not data:
            raise DataError("the file is empty; it needs a header and rows", self.path)
        for signature, message in _SIGNATURES:
            if data.startswith(signature):
                raise DataError(message, self.path, 1)

    def _check_lines(self, data: bytes) -> None:
        end = b"\n" if b"\n" in data else b"\r"
        at, ends = data.find(b"\0"), data.count(end)
        if at >= 0:
            raise DataError(
                "a NUL byte stands in the line: the file is damaged or is no UTF-8 text; "
                "write it again",
                self.path,
                self.lines + data.count(end, 0, at) + 1,
            )
        self.lines += ends
        self.length = len(data) - data.rfind(end) - 1 + (0 if ends else self.length)
        if self.length > MAX_LINE:
            raise DataError(
                f"the line is longer than {MAX_LINE >> 20} MiB; end every row with a line feed",
                self.path,
                self.lines + 1,
            )

    def close(self) -> None:
        """Close the file."""
        self.file.close()
        super().close()


def _is_packed(path: Path) -> bool:
    with path.open("rb") as file:
        return path.name.lower().endswith(".gz") or file.read(2) == b"\x1f\x8b"


@contextmanager
def _unpacking(path: Path) -> Iterator[None]:
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        message = f"the file is no complete gzip file ({error}); fetch or write it again"
        raise DataError(message, path) from None


def _lines(path: Path) -> Iterator[str]:
    """Lines with their ends, decoded; names the first that is not UTF-8."""
    with _Source(path) as source:
        raw = io.BufferedReader(source)
        file = io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="")
        for number, line in enumerate(file, 1):
            if wrong := re.search("[\udc80-\udcff]", line):
                raise DataError(
                    f"byte 0x{ord(wrong.group()) - 0xDC00:02x} is not valid UTF-8; convert the "
                    "file, such as: iconv -f LATIN1 -t UTF-8 OLD > NEW",
                    path,
                    number,
                )
            yield line


def _chosen(names: Sequence[str], wanted: set[str] | None, path: Path) -> list[str]:
    """Names of the columns to read."""
    known = [name for name in names if name.strip() and not _INDEX.fullmatch(name)]
    repeated = next((name for i, name in enumerate(known) if name in known[:i]), None)
    if repeated is not None:
        message = f"two columns have the name {quote(repeated)}; rename or remove one of them"
        raise DataError(message, path, 1)
    for name in sorted(wanted or ()):
        if name not in known:
            raise DataError(
                f"there is no column {quote(name)}{suggest(name, known)}; columns are "
                f"{', '.join(known)}",
                path,
            )
    return [name for name in known if wanted is None or name in wanted]


# --- text ----------------------------------------------------------------------------------


def _read_text(path: Path, separator: str | None, wanted: set[str] | None) -> pa.Table:
    names, separator = _header(path, separator)
    chosen = _chosen(names, wanted, path)
    with _Source(path) as source:
        try:
            table = pacsv.read_csv(
                source,
                pacsv.ReadOptions(block_size=MAX_LINE),
                pacsv.ParseOptions(delimiter=separator, newlines_in_values=True),
                pacsv.ConvertOptions(
                    column_types=dict.fromkeys(chosen, pa.string()), include_columns=chosen
                ),
            )
        except pa.ArrowInvalid:
            _check_rows(path, separator, len(names))
            raise
        if source.quotes % 2:  # Arrow lets a quote run to the end of the file
            _check_rows(path, separator, len(names))
    return table


def _header(path: Path, separator: str | None) -> tuple[list[str], str]:
    """Names of all columns, and the separator."""
    with closing(_lines(path)) as lines:
        first = next((line for line in lines if line.strip()), None)
        if first is None:
            raise DataError("the file is empty; it needs a header and rows", path)
        if separator is None:
            plain = re.sub('"[^"]*"', "", first)
            separator = max(SEPARATORS, key=plain.count)
        elif not re.fullmatch(r"[\x01-\x7f]", separator) or separator in '"\r\n':
            message = "it must be one ASCII character, and no quote or line end"
            raise ConfigError(f"the separator is {separator!r}; {message}")
        try:
            names = next(csv.reader(chain([first], lines), delimiter=separator, strict=True))
        except csv.Error as error:
            raise DataError(f"the first line is no header ({error})", path, 1) from None
    number = next(filter(_NUMBER.fullmatch, names), None)
    if number is not None or not any(name.strip() for name in names):
        found = "it names no column" if number is None else f"{quote(number)} is a number"
        message = f"the first line is no header: {found}; put names of the columns above the rows"
        raise DataError(message, path, 1)
    return names, separator


def _check_rows(path: Path, separator: str, n_columns: int) -> None:
    """Name the first row that is wrong."""
    limit = csv.field_size_limit(MAX_LINE)
    try:
        with closing(_lines(path)) as lines:
            reader = csv.reader(lines, delimiter=separator, strict=True)
            start = 1
            for row in reader:
                if row and len(row) != n_columns:
                    columns = "1 column" if len(row) == 1 else f"{len(row)} columns"
                    raise DataError(
                        f"{columns} where the header has {n_columns}: "
                        f"{quote(separator.join(row))}; leave a missing value empty, and put a "
                        f"value that holds {separator!r} into double quotes",
                        path,
                        start,
                    )
                start = reader.line_num + 1
    except csv.Error as error:
        message = f"the row is no valid CSV ({error}); close each quote, and double it in a value"
        raise DataError(message, path, start) from None
    finally:
        csv.field_size_limit(limit)


# --- JSON lines ----------------------------------------------------------------------------


def _read_json(path: Path, wanted: set[str] | None) -> pa.Table:
    table = _parse_json(path, {})
    # Arrow takes texts like dates for dates; they are wanted as written.
    dates = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    if dates:
        table = _parse_json(path, dict.fromkeys(dates, pa.string()))
    return table.select(_chosen(table.column_names, wanted, path))


def _parse_json(path: Path, types: dict[str, pa.DataType]) -> pa.Table:
    with _Source(path) as source:
        try:
            table = pajson.read_json(
                source,
                pajson.ReadOptions(block_size=MAX_LINE),
                pajson.ParseOptions(explicit_schema=pa.schema(types)),
            )
            table.validate(full=True)  # of UTF-8
        except (pa.ArrowInvalid, UnicodeDecodeError):
            _check_objects(path)
            raise
    for name in table.column_names:
        column = table[name]
        if pa.types.is_floating(column.type) and (pc.max(pc.abs(column)).as_py() or 0) >= 2**53:
            raise DataError(
                f"column {quote(name)} holds numbers beyond 2^53 that a float64 rounds; write "
                "them in quotes",
                path,
            )
    return table


def _check_objects(path: Path) -> None:
    """Name the first line that is no object, or whose values are of another kind."""
    seen: dict[str, tuple[str, int]] = {}
    with closing(_lines(path)) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            for name, value in _object(line, path, number).items():
                if value is None:
                    continue
                kind = _KINDS[type(value)]
                before, first = seen.setdefault(name, (kind, number))
                if kind != before:
                    raise DataError(
                        f"{quote(name)} is a {kind} here and a {before} on line {first}; write "
                        "all its values alike, such as in quotes",
                        path,
                        number,
                    )


_KINDS = {
    str: "text",
    int: "number",
    float: "number",
    bool: "truth value",
    list: "list",
    dict: "object",
}


def _object(line: str, path: Path, number: int) -> dict[str, Any]:
    """Names and values of the JSON object on a line."""
    try:
        found = json.loads(line, object_pairs_hook=_without_repeats)
        if not isinstance(found, dict):
            raise ValueError(f"{quote(line.strip())}")
    except (ValueError, RecursionError) as error:
        message = f"the line is no JSON object ({error}); write one object per line"
        if line.startswith("["):
            message = "the file is one JSON array; write one object per line: jq -c '.[]' OLD > NEW"
        raise DataError(message, path, number) from None
    return found


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it names a column twice")
    return found


# --- Parquet -------------------------------------------------------------------------------


def _read_parquet(path: Path, wanted: set[str] | None) -> pa.Table:
    source: Path | pa.BufferReader = path
    if _is_packed(path):
        with _unpacking(path), gzip.open(path) as packed:
            source = pa.BufferReader(packed.read())
    try:
        with pq.ParquetFile(source) as file:
            return file.read(_chosen(file.schema_arrow.names, wanted, path))
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, (FileNotFoundError, IsADirectoryError)):
            raise
        message = f"the file is no complete Parquet file ({one_line(error)}); write it again"
        raise DataError(message, path) from None
